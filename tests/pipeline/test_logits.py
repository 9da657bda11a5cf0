"""The logits stage: what is left to do, where the store lies, whether it fits."""

from pathlib import Path

import pytest

from kdscale import recipe_files as recipes
from kdscale.errors import UserError
from kdscale.logits import places
from kdscale.pipeline import logits
from kdscale.pipeline.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, dataset_folder: Path) -> Run:
    recipe = recipes.load(ROOT / "configs" / "quickstart.yaml", ["teachers.count=3", "data.lanes=8"])
    (tmp_path / "run").mkdir()
    dataset_folder.rename(tmp_path / "run" / "data")
    return Run(tmp_path / "run", recipe)


def test_everything_is_missing_before_there_is_a_store(run: Run) -> None:
    assert len(logits.missing(run)) == 3 * 3
    assert logits.missing(run)[0] == "seed-0/view-000/train-000000"


def test_a_store_that_does_not_fit_is_refused_with_the_numbers(run: Run, monkeypatch) -> None:
    logits.check_room(run)
    monkeypatch.setattr(places.Folder, "free", lambda self: 3000)
    with pytest.raises(
        UserError, match=r"the logit store takes about .* GB more and .* GB are free; make room, set logits\.path"
    ):
        logits.check_room(run)


def test_a_store_elsewhere_is_named_by_what_is_in_it(run: Run) -> None:
    def where(*changes: str) -> str:
        recipe = recipes.load(ROOT / "configs" / "quickstart.yaml", ["logits.path=s3://bucket/stores", *changes])
        return str(logits.where(Run(run.folder, recipe)))

    assert where().startswith("s3://bucket/stores/quickstart-")
    assert where("student.temperature=9", "teachers.count=9") == where()
    assert where("logits.dtype=int8") != where()
    assert where("teachers.lr=0.1") != where()

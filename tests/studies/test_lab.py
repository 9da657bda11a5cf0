"""The lab: what is varied, what is kept, and where runs lie; no run is done here."""

from pathlib import Path
from typing import Any

import pytest

from kdscale.data.importing import import_dataset
from kdscale.errors import UserError
from kdscale.pipeline.run import Run
from kdscale.studies.catalogue import STUDIES, named
from kdscale.studies.findings import Findings, Row
from kdscale.studies.lab import Lab, shared


class Bring:
    """Notes what it is asked to bring."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Path]] = []

    def __call__(self, last: str, recipe: Any, folder: Path, stack: bool = False) -> Run:
        self.asked.append((last, folder))
        return Run(folder, recipe)


def temperature(run: Run, times: float = 1.0) -> float:
    return run.recipe.student.temperature * times


def lab(folder: Path, name: str = "mysteries-ntk", **options: Any) -> tuple[Lab, Bring]:
    bring = Bring()
    return Lab(named(name), folder, bring, **options), bring


def test_a_variation_is_run_once_and_kept(tmp_path: Path) -> None:
    one, bring = lab(tmp_path)
    assert one.run("a", "student.temperature=3", measure=temperature) == 3
    assert one.run("b", "student.temperature=5", measure=temperature) == 5
    again, none = lab(tmp_path)
    assert again.run("a", "student.temperature=3", measure=temperature) == 3
    assert not none.asked
    assert again.run("a", "student.temperature=4", measure=temperature) == 4
    assert again.run("a", "student.temperature=4", measure=temperature, given=(2.0,)) == 8
    assert len(none.asked) == 2
    assert len({folder for _, folder in bring.asked + none.asked}) == 1  # they share their members


def test_runs_of_other_members_or_data_lie_elsewhere(tmp_path: Path) -> None:
    one, _ = lab(tmp_path)
    base = shared(one.recipe())
    for same in (
        "student.temperature=9",
        "teachers.count=3",
        "fusion.members=[1]",
        "joint.networks=2",
        "teachers.pack=2",
    ):
        assert shared(one.recipe(same)) == base
    for other in ("teachers.epochs=9", "data.test=100", "seed=3", "teachers.model.width=7"):
        assert shared(one.recipe(other)) != base


def test_the_users_overrides_replace_the_recipes_and_are_told(tmp_path: Path) -> None:
    one, _ = lab(tmp_path, quick=True, overrides=["teachers.epochs=7", "student.temperature=8"])
    recipe = one.recipe("student.hard_weight=0.3")
    assert (recipe.teachers.epochs, recipe.student.temperature, recipe.student.epochs) == (7, 8, 100)
    concluded = one.conclude(Findings([Row("r", [1.0])]))
    assert "teachers.epochs=7" in concluded["notes"][0]
    assert (concluded["seeds"], concluded["quick"]) == (3, True)
    assert concluded["figures"][0]["value"] == 1
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("change", ["student.model.hidden=[9]", "student.model={name: mlp, hidden: [9]}"])
def test_what_the_study_sets_from_its_first_run_on_is_not_the_users(tmp_path: Path, change: str) -> None:
    one, _ = lab(tmp_path, "hinton-mnist", overrides=["student.model.hidden=[5]"])
    with pytest.raises(UserError, match=r"student.model.hidden: the study hinton-mnist sets it itself; --seeds says"):
        one.run("first", change)


def test_what_a_later_run_varies_is_varied_whatever_the_user_took_for_the_others(tmp_path: Path) -> None:
    one, _ = lab(tmp_path, "mysteries-multiview", overrides=["data.options.k=4"])
    one.run("first", "student.seeds=[1]", measure=lambda run: 1)
    one.run("later", "data.options.k=16", measure=lambda run: 1)
    assert [one.used[label].data.options["k"] for label in ("first", "later")] == [4, 16]


@pytest.mark.parametrize("study", [one.name for one in STUDIES])
@pytest.mark.parametrize("quick", [True, False])
def test_what_stands_in_for_missing_data_can_be_split(
    tmp_path: Path, study: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    data = lab(tmp_path, study, quick=quick)[0].recipe().data
    monkeypatch.undo()
    if data.source == "digits":
        import_dataset(data, 0, tmp_path / "data")
        assert (tmp_path / "data" / "manifest.json").exists()
    else:
        assert data.path is None


def test_unknown_overrides_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown field teachers.epoch; did you mean epochs"):
        lab(tmp_path, overrides=["teachers.epoch=7"])


def test_digits_stand_in_for_data_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "nowhere.yaml"
    study = named("hinton-mnist")
    nowhere.write_text(study.recipe.read_text().replace("../../../shared/data/mnist", "no/such/folder"))
    monkeypatch.setattr(type(study), "recipe", property(lambda self: nowhere))
    one, _ = lab(tmp_path, "hinton-mnist")
    data = one.recipe().data
    assert (data.source, data.path) == ("digits", None)
    assert "scikit-learn's 1,797 digits" in one.notes[0]
    own, _ = lab(tmp_path, "hinton-mnist", overrides=["data.path=my/own"])
    assert own.recipe().data.source == "idx"  # and the run will say that it is not there
    assert not any("digits" in note for note in own.notes)

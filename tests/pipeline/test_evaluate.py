"""The evaluate stage's stores, and the comparison of fusion rules that is made from them alone."""

from pathlib import Path

import numpy as np
import pytest

from kdscale import recipe as recipes
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest
from kdscale.ensemble.comparison import RULES
from kdscale.logits.dense import Dense
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store
from kdscale.pipeline import evaluate
from kdscale.pipeline.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Three members, of which two count."""
    recipe = recipes.load(ROOT / "configs" / "quickstart.yaml", ["teachers.count=3", "fusion={without: [1]}"])
    (tmp_path / "run").mkdir()
    dataset_folder.rename(tmp_path / "run" / "data")
    made = Run(tmp_path / "run", recipe)
    models = [
        evaluate.Trained(f"teacher-seed-{seed}", tmp_path, str(seed) * 64, recipe.teachers.model) for seed in range(3)
    ]
    monkeypatch.setattr(evaluate, "models", lambda run: models)
    return made


def with_validation(run: Run) -> None:
    splits = run.manifest.splits
    Manifest(
        **{
            **run.manifest.model_dump(),
            "splits": {"train": splits["train"][1:], "validation": splits["train"][:1], "test": splits["test"]},
        }
    ).save(run.dataset)
    del run.manifest


def label(run: Run) -> None:
    random = np.random.default_rng(0)
    for split in evaluate.splits(run):
        info = StoreInfo(
            dataset=run.manifest.fingerprint,
            split=split,
            classes=3,
            codec=Dense("float32").describe(),
            views="plain",
        )
        store = Store.create(run.claim(evaluate.store_name(split), "f" * 64), info)
        dataset = Dataset(run.dataset, split, run.manifest)
        for number, shard in enumerate(dataset.shards):
            rows = dataset.decoded(number)
            for model in evaluate.models(run):
                z = (2 * np.eye(3)[rows.y] + random.normal(size=(len(rows.y), 3))).astype(np.float32)
                store.commit(Slot(shard.name, 0, model.member), rows.keys, z, model.checksum, shard.sha256)


def test_a_validation_split_is_labelled_where_there_is_one(run: Run) -> None:
    assert evaluate.splits(run) == ["test"]
    with_validation(run)
    assert evaluate.splits(run) == ["test", "validation"]
    assert [evaluate.store_name(split) for split in evaluate.splits(run)] == ["evaluate", "evaluate-validation"]


def test_rules_are_compared_from_the_stores_alone(run: Run) -> None:
    with_validation(run)
    label(run)
    seen = evaluate.compare(run, RULES)
    assert [row["rule"] for row in seen["rules"]] == list(RULES)
    assert (seen["n"], seen["members"], seen["fitted_on"], seen["left_out"]) == (20, [0, 2], 30, [])
    (stacked,) = (row for row in seen["rules"] if row["rule"] == "stacked_probability")
    assert list(stacked["weights"]) == [0, 2]


def test_without_a_validation_split_rules_with_weights_are_left_out(run: Run) -> None:
    label(run)
    seen = evaluate.compare(run, ["borda", "nll_weighted"])
    assert [row["rule"] for row in seen["rules"]] == ["borda"]
    assert seen["left_out"] == ["nll_weighted"]
    assert seen["fitted_on"] is None

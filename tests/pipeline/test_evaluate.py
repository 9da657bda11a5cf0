"""The evaluate stage's stores, and the comparison of fusion rules that is made from them alone."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kdscale import cluster
from kdscale import recipe_files as recipes
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest
from kdscale.ensemble.comparison import FEATURES, RULES
from kdscale.logits.dense import Dense
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store
from kdscale.models import zoo
from kdscale.pipeline import comparing, evaluate, features
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec
from kdscale.tracking.progress import Bars
from kdscale.training.finished import commit_weights

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
    seen = comparing.compare(run, RULES)
    assert [row["rule"] for row in seen["rules"]] == [rule for rule in RULES if rule != FEATURES]
    assert (seen["n"], seen["members"], seen["fitted_on"]) == (20, [0, 2], 30)
    assert seen["left_out"] == {FEATURES: "the members' features were not computed"}
    (stacked,) = (row for row in seen["rules"] if row["rule"] == "stacked_probability")
    assert list(stacked["weights"]) == [0, 2]


def test_without_a_validation_split_rules_with_weights_are_left_out(run: Run) -> None:
    label(run)
    seen = comparing.compare(run, ["borda", "nll_weighted"])
    assert [row["rule"] for row in seen["rules"]] == ["borda"]
    assert list(seen["left_out"]) == ["nll_weighted"]
    assert "data.validation" in seen["left_out"]["nll_weighted"]
    assert seen["fitted_on"] is None


def test_weights_of_the_recipe_count_in_means_and_votes(run: Run) -> None:
    fusion = run.recipe.fusion.model_copy(update={"weights": {0: 3.0}})
    run.recipe = run.recipe.model_copy(update={"fusion": fusion})
    label(run)
    seen = comparing.compare(run, ["mean_probability", "plurality"])
    assert seen["member_weights"] == {0: 3.0, 2: 1.0}
    mean, votes = seen["rules"]
    assert votes["ballots"] == [3, 1]
    alone = evaluate.labelled(run, "test", evaluate.models(run)).members([0])
    assert votes["errors"] == int((alone.logits[0].argmax(1) != alone.y).sum())  # three ballots of four
    assert mean["agreement"] == 1


def test_features_are_stacked_where_they_are_computed_and_the_row_is_kept(run: Run, monkeypatch) -> None:
    """The tasks run here, one after the other, in place of Ray's."""
    with_validation(run)
    label(run)
    models = []
    shape, recipe = run.manifest.sample.shape, run.recipe
    for seed in range(3):
        folder = run.folder / f"teachers/seed-{seed}"
        folder.mkdir(parents=True)
        network = zoo.build(recipe.teachers.model, shape, 3, seed)
        checksum = commit_weights(folder, network.state_dict(), "f" * 64)
        models.append(evaluate.Trained(f"teacher-seed-{seed}", folder, checksum, recipe.teachers.model, True))
    monkeypatch.setattr(evaluate, "models", lambda run: models)
    label(run)
    monkeypatch.setattr(cluster, "Tasks", Here)
    monkeypatch.setattr(cluster, "needs", lambda cpus, gpus: cluster.Needs(1, 0))
    connected = []

    @contextmanager
    def connect():
        connected.append(1)
        yield

    for _ in range(2):
        features.work(run, connect, Bars(Console(quiet=True)))
    assert connected == [1]
    seen = comparing.compare(run, [FEATURES, "borda"])
    assert not seen["left_out"]
    row = seen["rules"][0]
    assert (row["rule"], row["features"], row["n"]) == (FEATURES, 256, 20)
    assert row["nll"] > 0
    comparing.save(run, seen)
    assert comparing.saved(run)["rules"] == seen["rules"]


def test_a_model_without_features_is_left_out_with_the_reason(run: Run) -> None:
    with_validation(run)
    label(run)
    averaged = run.recipe.teachers.model_copy(update={"model": ModelSpec(name="average", model="mlp", count=2)})
    run.recipe = run.recipe.model_copy(update={"teachers": averaged})
    seen = comparing.compare(run, [FEATURES])
    assert seen["left_out"] == {FEATURES: "the network does not end in a fully connected layer"}


class Here:
    """Tasks without Ray."""

    def __init__(self, tick, stopped) -> None:
        self.queue = []

    def submit(self, name, function, *arguments, needs, done) -> None:
        self.queue.append((function, arguments, done))

    def run(self) -> None:
        for function, arguments, done in self.queue:
            done(function(*arguments))

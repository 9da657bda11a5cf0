"""What the plan of a run counts, before anything is there."""

from pathlib import Path

import pytest

from kdscale import recipe_files as recipes
from kdscale.data.manifest import Manifest, SampleSpec, Shard
from kdscale.pipeline import logits, plan
from kdscale.pipeline.run import Run

ROOT = Path(__file__).parents[2]


def seconds(folder: Path, *overrides: str) -> dict[str, float]:
    recipe = recipes.load(ROOT / "configs" / "quickstart.yaml", ["student.control=false", *overrides])
    made = plan.make(Run(folder, recipe), 1)
    return {step.stage: step.seconds - plan.START[step.stage] for step in made.steps if step.seconds is not None}


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_speed", lambda: 1e5)


def test_models_label_the_validation_split_too(tmp_path: Path) -> None:
    none, some = (seconds(tmp_path, f"data.validation={count}") for count in (0, 400))
    assert some["evaluate"] / none["evaluate"] == pytest.approx((539 + 400) / 539, rel=0.01)


def test_the_joint_control_is_trained_and_evaluated(tmp_path: Path) -> None:
    without, with_joint = seconds(tmp_path), seconds(tmp_path, "joint.networks=5")
    assert with_joint["teachers"] == without["teachers"]
    gained = with_joint["student"] - without["student"]
    assert gained == pytest.approx(5 * without["teachers"] / 5, rel=0.01)  # as long as five members one after the other
    assert with_joint["evaluate"] > 1.5 * without["evaluate"]


def test_specialists_are_planned_at_the_papers_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """configs/jft.yaml: 15,000 classes, 100 million samples in shards that are not here, 61 specialists of 300."""
    monkeypatch.setattr(plan, "_operations", lambda spec, found: 1e9)
    monkeypatch.setattr(logits, "refuse_too_large", lambda run, needed: None)  # 72 GB

    def shards(split: str, count: int) -> list[Shard]:
        names = [f"https://photos.example/{split}-{number:06d}.tar" for number in range(count)]
        return [Shard(name=name, samples=10_000, bytes=1 << 30, sha256="0" * 64) for name in names]

    Manifest(
        classes=[str(number) for number in range(15_000)],
        sample=SampleSpec(kind="image", shape=(3, 64, 64)),
        mean=[0.5] * 3,
        std=[0.2] * 3,
        splits={"train": shards("train", 10_000), "validation": [], "test": shards("test", 10)},
    ).save(tmp_path)
    recipe = recipes.load(ROOT / "configs" / "jft.yaml", [f"data.path={tmp_path}"])
    made = plan.make(Run(tmp_path / "run", recipe), 64)
    steps = {step.stage: step for step in made.steps}
    assert steps["specialists"].run == 61 + 1  # and the student distilled from them
    assert steps["logits"].run == 10 * 10_000
    assert made.store_bytes is not None
    assert 3e10 < made.store_bytes < 1e11  # all logits would be 3e13 bytes
    assert steps["specialists"].seconds is not None
    assert steps["student"].seconds is not None

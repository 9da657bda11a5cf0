"""What the plan of a run counts, before anything is there."""

from pathlib import Path

import pytest

from kdscale import recipe_files as recipes
from kdscale.pipeline import plan
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

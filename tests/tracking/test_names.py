"""configs/wandb/metrics.yaml names what the code logs, no more and no less, and the dashboard is made of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.recipe import Training
from kdscale.specialists import objective as special
from kdscale.tracking import dashboard, evaluation, names
from kdscale.tracking.status import Status
from kdscale.tracking.throughput import Throughput
from kdscale.training import objectives
from kdscale.training.best import Best
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.engine import TorchEngine
from kdscale.training.fit import Job, Plan, fit

CLASSES = 4


class Record:
    """Stands in for a tracker, and keeps the names."""

    def __init__(self, kind: str = "") -> None:
        self.kind, self.seen = kind, set[str]()

    def log(self, step: int, **values: float) -> None:
        self.seen |= {names.of(self.kind, field) for field in values}

    summary = log

    def close(self, exit_code: int = 0) -> None:
        pass


class Summary(Record):
    def summary(self, **values: float) -> None:
        self.log(0, **values)


def batch(**targets: torch.Tensor) -> Batch:
    return Batch(torch.randn(6, 5), torch.arange(6) % CLASSES, targets)


def trained(kind: str, objective: objectives.Objective, given: Batch, heads: int, folder: Path) -> set[str]:
    """What the fit loop logs of two steps."""
    record = Record(kind)
    outputs = CLASSES if not heads else heads * CLASSES
    shape = torch.nn.Unflatten(1, (heads, CLASSES)) if heads else torch.nn.Identity()
    engine = TorchEngine(torch.nn.Sequential(torch.nn.Linear(5, outputs), shape), torch.device("cpu"))
    settings = Training(model="mlp", epochs=1, batch_size=6)
    job = Job(0, Checkpoints(folder / kind / "checkpoints"), lambda step: record, Status(folder / kind))
    fit(engine, lambda step: given, objective, Plan(2, 2.0, settings), [job])
    return record.seen


def looked(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    class Engine:
        rank = 1

        def weights(self) -> dict[str, torch.Tensor]:
            return {}

    best = Best(folder, None, None, 1.0, 2)  # type: ignore[arg-type]
    monkeypatch.setattr(best, "measure", lambda engine: {"errors": 1, "nll": 0.5, "n": 10})
    return {names.of(kind, field) for field in best.look(Engine(), 1)}  # type: ignore[arg-type]


def of_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every kind of model, by every objective that it may have."""
    dense = torch.randn(6, 1, CLASSES)
    soft = [objectives.distillation(2.0, 0.5), objectives.distillation(lambda step: 2.0 + step, 0.5)]
    several = objectives.mimic_all([1.0, 1.0], 2.0, 0.5)
    plain = [objectives.hard, objectives.labelled(0.1)]
    own = [0, 1]
    asked: list[tuple[str, list[Any], Batch, int]] = [
        ("teacher", [objectives.hard], batch(), 0),
        ("joint", [objectives.hard], batch(), 0),
        ("student", soft, batch(logits=dense, weight=torch.ones(6, 1), members=torch.ones(6)), 0),
        ("student", [several], batch(logits=torch.randn(6, 2, CLASSES), weight=torch.full((6, 2), 0.5)), 2),
        ("distilled", soft, batch(logits=dense, weight=torch.ones(6, 1)), 0),
        ("control", plain, batch(), 0),
        ("mixture", plain, batch(), 0),
    ]
    seen: set[str] = set()
    for kind, every, given, heads in asked:
        for number, objective in enumerate(every):
            seen |= trained(kind, objective, given, heads, folder / f"{number}-{heads}")
    taught = batch(generalist=dense[:, 0].log_softmax(1))
    taught = Batch(taught.x, taught.y % 3, taught.targets)
    for number, teach in enumerate((special.hard, special.soft_rest)):
        learn = teach(own, CLASSES)

        def objective(logits: torch.Tensor, given: Batch, learn: Any = learn) -> objectives.Losses:
            found: objectives.Losses = learn(logits[:, :3], given)
            return found

        seen |= trained("specialist", objective, taught, 0, folder / f"special-{number}")
    for kind in ("student", "control", "distilled", "mixture"):
        seen |= looked(kind, folder / kind, monkeypatch)
    return seen | {names.STEP}


def of_store() -> set[str]:
    record = Summary()
    rates = Throughput(lambda step: record)  # type: ignore[arg-type, return-value]
    rates.start()
    rates.add(3, 1, 100)
    rates.close(bytes=10)
    return record.seen


def results() -> dict[str, Any]:
    """Of a run with everything."""
    one = {"seed": 0, **dict.fromkeys(evaluation.METRICS, 0.5)}
    fan = {"mean": 0.5, "min": 0.4, "max": 0.6}
    bins = [{"low": i / 2, "high": i / 2 + 0.5, "count": i, "accuracy": 0.5 if i else None} for i in range(2)]
    several = ("ensemble", "student", "control", "joint", "specialists", "distilled", "mixture")
    models = {name: {**one, "runs": [one]} for name in (*several, "student_ensemble", "control_ensemble")}
    return {
        "test": {
            "teachers": [one, {**one, "seed": 1}],
            **models,
            "by_size": [{"members": 2, **dict.fromkeys(evaluation.SIZED, fan)}],
            "reliability": dict.fromkeys(several, bins),
            "gains": {"coverage": [{"specialists": 1, "examples": 4, "before": 2, "after": 3}]},
        }
    }


def of_results() -> set[str]:
    splits = results()
    rows = {name for row in evaluation.rows(splits) for name in row}
    return rows | set(evaluation.summary(splits)) | set(evaluation.of_one(splits["test"]["teachers"][0]))


def test_the_file_names_what_the_code_logs_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = of_training(tmp_path, monkeypatch) | of_store() | of_results()
    named = set(names.load()["metrics"])
    assert sorted(logged - named) == [], "logged, and not named in configs/wandb/metrics.yaml"
    assert sorted(named - logged) == [], "named in configs/wandb/metrics.yaml, and logged by nothing"


def test_every_x_axis_is_a_metric() -> None:
    tree = names.load()
    assert set(names.STEPS) <= set(tree["metrics"])
    for section in tree["dashboard"]["sections"]:
        for panel in section["panels"]:
            assert panel.get("x", names.STEP) in {*names.STEPS, "Relative Time (Process)"}


def test_names_are_written_out() -> None:
    assert names.expand("{a,b}/{c,d}_x") == ["a/c_x", "a/d_x", "b/c_x", "b/d_x"]
    assert names.expand("plain") == ["plain"]


def test_empty_bins_and_uncovered_classes_are_left_out() -> None:
    splits = results()
    splits["test"]["gains"]["coverage"].append({"specialists": 2, "examples": 0, "before": 0, "after": 0})
    rows = evaluation.rows(splits)
    assert [row["calibration/confidence"] for row in rows if "calibration/confidence" in row] == [0.75]
    assert [row["specialists/covering"] for row in rows if "specialists/covering" in row] == [1]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_the_dashboard_has_a_section_for_each_question() -> None:
    made = dashboard.spec(dashboard.workspace(dashboard.read(None), "me", "kdscale"))
    bank = made["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in bank] == [
        *("Teachers by seed", "The ensemble's gain by size", "Logit store", "Student", "Specialists by domain"),
        *("Calibration", "System"),
    ]
    band = bank[0]["panels"][0]
    assert band["viewType"] == "Run History Line Plot"
    assert band["config"]["metrics"] == ["teacher/loss"]
    assert (band["config"]["groupAgg"], band["config"]["groupArea"]) == ("mean", "minmax")
    assert bank[0]["panels"][1]["config"]["groupBy"] == "job.value.seed"


@pytest.mark.parametrize("damage", ["panel", "yaml", "shape"])
def test_a_file_that_no_dashboard_can_be_made_of_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mine.yaml"
    tree = yaml.safe_load(names.FILE.read_text())
    tree["dashboard"]["sections"][0]["panels"][0]["lines"] = ["teacher/lots"]
    path.write_text({"panel": yaml.safe_dump(tree), "yaml": "a: [", "shape": "metrics: {}"}[damage])
    said = {"panel": "which nobody logs", "yaml": "cannot be read", "shape": "is no list of metrics"}[damage]
    with pytest.raises(UserError, match=said):
        dashboard.read(path)


def test_a_bin_is_placed_at_its_middle() -> None:
    assert np.isclose(evaluation.rows(results())[1]["calibration/confidence"], 0.75)


def test_trouble_with_the_lineage_is_no_trouble_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdscale.pipeline import lineage
    from kdscale.pipeline.run import Run
    from kdscale.recipe import Recipe

    def fail(run: Run) -> None:
        raise OSError("the disk is gone")

    tree = {"model": "mlp", "epochs": 1}
    asked = {"name": "r", "teachers": tree, "student": tree, "tracking": {"wandb": {"mode": "offline"}}}
    monkeypatch.setattr(lineage, "note", fail)
    lineage.publish(Run(tmp_path, Recipe.model_validate(asked)))
    assert "kdscale wandb sync" in capsys.readouterr().err

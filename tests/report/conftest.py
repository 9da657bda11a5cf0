"""Generated results, shaped as evaluation writes them."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Results = dict[str, Any]


def metrics(errors: float, n: int = 1000, seed: int | None = None) -> dict[str, Any]:
    share = errors / n
    found = {
        "accuracy": 1 - share,
        "errors": errors,
        "n": n,
        "nll": 3 * share,
        "brier": 1.6 * share,
        "ece": share / 4,
        "agreement": 1 - share / 2,
    }
    return found if seed is None else {**found, "seed": seed}


def trained(errors: list[int], n: int = 1000) -> dict[str, Any]:
    runs = [metrics(number, n, seed) for seed, number in enumerate(errors)]
    return {**metrics(sum(errors) / len(errors), n), "runs": runs}


def bins(sure: float) -> list[dict[str, Any]]:
    found = []
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        samples = round(math.exp(index / 2.2)) if index > 3 else 0
        middle = (low + high) / 2
        found.append(
            {
                "low": low,
                "high": high,
                "count": samples,
                "confidence": middle if samples else None,
                "accuracy": max(0.0, min(1.0, middle + sure * (1 - middle))) if samples else None,
            }
        )
    return found


def build(
    teachers: list[int],
    ensemble: int = 40,
    student: list[int] | None = None,
    control: list[int] | None = None,
    classes: int = 10,
) -> Results:
    """Results of a run in which the models make so many errors among 1000 samples."""
    random_ = random.Random(0)
    matrix = [
        [95 if i == j else int(random_.random() < 0.2) * random_.randint(1, 4) for j in range(classes)]
        for i in range(classes)
    ]
    split: dict[str, Any] = {
        "teachers": [metrics(number, seed=seed) for seed, number in enumerate(teachers)],
        "ensemble": metrics(ensemble),
        "student": trained(student or [45, 47, 46]),
        "by_size": [
            {
                "members": size,
                "subsets": 10,
                **{
                    name: {"mean": middle, "min": middle - 0.01 / size, "max": middle + 0.01 / size}
                    for name, middle in (("accuracy", 0.96 - 0.02 / size), ("nll", 0.12 + 0.06 / size))
                },
            }
            for size in range(1, len(teachers) + 1)
        ],
        "reliability": {"ensemble": bins(0.3), "student": bins(0.1)},
        "confusion": {"student": matrix},
    }
    if control is not None:
        split["control"] = trained(control)
        split["reliability"]["control"] = bins(-0.3)
    recipe = {
        "name": "digits-example",
        "seed": 0,
        "teachers": {"model": {"name": "mlp"}, "count": len(teachers)},
        "student": {"model": {"name": "mlp"}, "temperature": 4.0},
    }
    return {
        "recipe": recipe,
        "fingerprint": "f00d" * 16,
        "dataset": {
            "fingerprint": "beef" * 16,
            "classes": [str(index) for index in range(classes)],
            "samples": {"train": 8000, "validation": 500, "test": 1000},
        },
        "splits": {"test": split},
        "models": {
            "teacher": {"name": "mlp", "parameters": 100_000, "bytes": 400_000},
            "ensemble": {"parameters": 100_000 * len(teachers), "bytes": 400_000 * len(teachers)},
            "student": {"name": "mlp", "parameters": 100_000, "bytes": 400_000},
        },
        "seconds": {"data": 1.2, "teachers": 63.0, "logits": 4.1, "student": 75.0, "evaluate": 2.4},
    }


def losses(teachers: int, seeds: int = 3) -> list[dict[str, Any]]:
    random_ = random.Random(1)
    rows: list[dict[str, Any]] = []
    for step in range(0, 400, 2):
        epoch = step / 40
        for seed in range(teachers):
            loss = 2.3 * math.exp(-epoch / 2) + 0.02 + 0.05 * random_.random()
            rows.append(
                {"stage": "teachers", "job": f"seed-{seed}", "step": step, "epoch": epoch, "loss": loss, "lr": 0.1}
            )
        for seed in range(seeds):
            soft, hard = (
                2.3 * math.exp(-epoch / rate) + floor * (1 + random_.random())
                for rate, floor in ((2.5, 0.4), (2, 0.05))
            )
            row = {"stage": "student", "step": step, "epoch": epoch, "lr": 0.1}
            rows.append({**row, "job": f"student-seed-{seed}", "loss": soft + 0.1 * hard, "soft": soft, "hard": hard})
            rows.append({**row, "job": f"control-seed-{seed}", "loss": hard / 2, "hard": hard / 2})
    return rows


def write(folder: Path, results: Results, rows: list[dict[str, Any]] | None = None) -> Path:
    """A run directory with these results, and metrics.jsonl if there are rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(results["recipe"], sort_keys=False), encoding="utf-8")
    if rows is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def results() -> Callable[..., Results]:
    return build


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run directory: `run(results, rows)`."""
    return lambda results, rows=None: write(tmp_path / "run", results, rows)


@pytest.fixture
def loss_rows() -> Callable[..., list[dict[str, Any]]]:
    return losses

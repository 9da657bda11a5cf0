"""What W&B shows of an evaluation: rows for its figures, and a summary of every model. results.json has all the rest."""

from collections.abc import Iterator
from typing import Any

MODELS = (
    *("teachers", "ensemble", "student", "control", "joint", "student_ensemble", "control_ensemble"),
    *("specialists", "distilled", "mixture"),
)
METRICS = ("accuracy", "errors", "nll", "brier", "ece", "agreement")
SIZED = ("accuracy", "nll", "brier", "ece")
"""What is measured of ensembles of every size."""


def rows(splits: dict[str, Any]) -> list[dict[str, float]]:
    """The figures of the test split: the ensemble by its size, calibration by confidence, specialists by coverage."""
    split = splits["test"]
    return [*_by_size(split), *_calibration(split), *_coverage(split)]


def summary(splits: dict[str, Any]) -> dict[str, float]:
    """Every kind of model on every split: means over its seeds."""
    found: dict[str, float] = {}
    for name, split in splits.items():
        for model in MODELS:
            found |= _measured(f"{name}/{model}", split.get(model))
    return found


def of_one(measured: dict[str, Any]) -> dict[str, float]:
    """A single model on the test split, for the summary of its own W&B run."""
    return _measured("test", measured)


def _measured(path: str, models: Any) -> dict[str, float]:
    every = models if isinstance(models, list) else [models] if models else []
    found = {}
    for metric in METRICS:
        values = [one[metric] for one in every if one.get(metric) is not None]
        if values:
            found[f"{path}/{metric}"] = sum(values) / len(values)
    return found


def _by_size(split: dict[str, Any]) -> Iterator[dict[str, float]]:
    for size in split.get("by_size", []):
        row = {"ensemble/members": size["members"]}
        for metric in SIZED:
            if size.get(metric):
                row |= {f"ensemble/{metric}": size[metric]["mean"]}
                row |= {f"ensemble/{metric}_{end}": size[metric][end] for end in ("min", "max")}
        yield row


def _calibration(split: dict[str, Any]) -> Iterator[dict[str, float]]:
    """How often each model is right where it is so confident; a row for each bin that any model fills."""
    diagrams: dict[str, Any] = split.get("reliability", {})
    for bins in zip(*diagrams.values(), strict=True):
        right = {f"calibration/{m}": b["accuracy"] for m, b in zip(diagrams, bins, strict=True) if b["count"]}
        if right:
            yield {"calibration/confidence": (bins[0]["low"] + bins[0]["high"]) / 2, **right}


def _coverage(split: dict[str, Any]) -> Iterator[dict[str, float]]:
    """What specialists bring to the samples whose class so many of them know."""
    for part in (split.get("gains") or {}).get("coverage", []):
        if part["examples"]:
            yield {
                "specialists/covering": part["specialists"],
                "specialists/examples": part["examples"],
                "specialists/before": part["before"] / part["examples"],
                "specialists/after": part["after"] / part["examples"],
            }

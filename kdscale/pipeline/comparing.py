"""All fusion rules on the test split, from what the evaluate stage left: behind `kdscale evaluate --fusion`."""

from collections.abc import Sequence
from typing import Any

from kdscale.ensemble import comparison
from kdscale.files import read_json, write_json
from kdscale.pipeline import evaluate, features
from kdscale.pipeline.evaluate import FUSION, TEST, VALIDATION
from kdscale.pipeline.run import Run


def compare(run: Run, rules: Sequence[str]) -> dict[str, Any]:
    """Every one of these fusion rules on the test split, from the stored logits of the ensemble's members.

    Weights are fitted on the validation split. The stacked features are those that `features.work` measured. What cannot be
    had is named in `left_out`, with the reason.

    Raises:
        UserError: the members' logits are not there, or a rule does not take so many classes.
    """
    recipe = run.recipe
    seeds, members = recipe.fused_seeds, features.members(run)
    read = {split: evaluate.labelled(run, split, members).members(seeds) for split in evaluate.splits(run)}
    weights = evaluate.shares(recipe) if recipe.fusion.weights else None
    found = comparison.compare(rules, read[TEST], read.get(VALIDATION), recipe.evaluate.bins, weights)
    rows = {row["rule"]: row for row in found}
    for row in rows.values():
        if "weights" in row:
            row["weights"] = dict(zip(seeds, row["weights"], strict=True))
    stacked = features.recorded(run) if comparison.FEATURES in rules else None
    if stacked is not None:
        rows[comparison.FEATURES] = {"rule": comparison.FEATURES, **stacked}
    return {
        "split": TEST,
        "n": len(read[TEST].y),
        "members": seeds,
        "member_weights": None if weights is None else dict(zip(seeds, weights, strict=True)),
        "fitted_on": len(read[VALIDATION].y) if VALIDATION in read else None,
        "rules": [rows[name] for name in rules if name in rows],
        "left_out": {name: _why_not(run, name) for name in rules if name not in rows},
    }


def save(run: Run, compared: dict[str, Any]) -> None:
    """Keep the table for the report, beside the results that it belongs to."""
    write_json(run.folder / FUSION, {"fingerprint": evaluate.fingerprint(run), **compared})


def saved(run: Run) -> dict[str, Any] | None:
    """The table that was kept, if it belongs to the results of today."""
    kept: dict[str, Any] | None = read_json(run.folder / FUSION)
    return kept if kept is not None and kept["fingerprint"] == evaluate.fingerprint(run) else None


def _why_not(run: Run, rule: str) -> str:
    if rule == comparison.FEATURES:
        return features.why_not(run) or "the members' features were not computed"
    return "there is no validation split to fit weights on (data.validation)"

"""Comparison: all ways to make one decision of an ensemble, side by side, on samples with labels.

Averages give probabilities, and with them NLL, Brier and ECE; their weights, where they have any, are fitted on another
split. Votes give a class alone.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.ensemble import fusion, voting, weighing
from kdscale.errors import UserError
from kdscale.repeatable import settle
from kdscale.training import metrics

Fit = Callable[[Tensor, Tensor], Tensor]
"""(M, N, C) logits and (N,) labels -> (M,) weights."""


class Average(NamedTuple):
    """A fusion rule, and how its weights are fitted; None where all members count alike."""

    rule: fusion.Rule
    fit: Fit | None = None


AVERAGES: dict[str, Average] = {
    "mean_probability": Average(fusion.mean_probability),
    "mean_logit": Average(fusion.mean_logit),
    "nll_weighted": Average(fusion.mean_probability, weighing.by_nll),
    "stacked_probability": Average(fusion.mean_probability, weighing.stack_probabilities),
    "stacked_logit": Average(fusion.mean_logit, weighing.stack_logits),
}
FEATURES = "stacked_features"
"""A readout of the members' penultimate features (`weighing.stack_features`), which are computed where the members are."""
RULES = (*AVERAGES, FEATURES, *voting.RULES)
ALL = "all"


@dataclass(frozen=True)
class Outputs:
    """What members say of the samples of a split."""

    logits: NDArray[np.float32]
    """(M, N, C)"""
    y: NDArray[np.int64]
    """(N,) labels."""


def named(asked: str) -> list[str]:
    """The rules of a list with commas between the names; `all` is every one.

    Raises:
        UserError: there is no rule of a name; says which is nearest.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names or ALL in names:
        return list(RULES)
    for name in names:
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, n=1)
            meant = f"did you mean {near[0]}?" if near else f"take {ALL}, or some of {', '.join(RULES)}"
            raise UserError(f"--fusion: there is no rule {name}; {meant}")
    return list(dict.fromkeys(names))


def needs_validation(name: str) -> bool:
    """Whether a rule has weights that must be fitted."""
    return name == FEATURES or (name in AVERAGES and AVERAGES[name].fit is not None)


def compare(
    rules: Sequence[str],
    outputs: Outputs,
    fitted_on: Outputs | None,
    bins: int,
    weights: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """What each rule makes of the members' outputs, at T = 1.

    Args:
        fitted_on: outputs on the split that weights are fitted on; rules that need it are left out without it.
        bins: of the ECE.
        weights: how much each member counts, in means and, rounded to whole ballots, in votes; fitted weights take their
            place. All alike by default.

    Returns:
        For each rule `rule`, `n`, `errors`, `accuracy` and `agreement` with the mean probability; of averages also `nll`,
        `brier`, `ece`, and `weights` where they were fitted; of votes `ballots`, where members have not one each. The
        stacked features are not among them.

    Raises:
        UserError: there are too many classes for one of the rules.
    """
    settle()
    logits = torch.from_numpy(outputs.logits)
    share = None if weights is None else torch.tensor(weights, dtype=torch.float64) / sum(weights)
    usual = fusion.mean_probability(logits.double(), 1.0, share).argmax(-1).numpy()
    ballots = None if weights is None else voting.whole_ballots(weights)
    votes = voting.elect(logits, [name for name in rules if name in voting.RULES], ballots)
    rows = []
    for name in rules:
        if name in votes:
            row = {"rule": name, **_decided(votes[name].numpy(), outputs.y, usual)}
            rows.append(row if ballots is None else {**row, "ballots": ballots})
        elif name in AVERAGES and (fitted_on is not None or not needs_validation(name)):
            rows.append({"rule": name, **_averaged(AVERAGES[name], logits, outputs.y, usual, fitted_on, bins, share)})
    return rows


def _averaged(
    average: Average,
    logits: Tensor,
    y: NDArray[np.int64],
    usual: NDArray[np.int64],
    fitted_on: Outputs | None,
    bins: int,
    share: Tensor | None,
) -> dict[str, Any]:
    weights = None
    if average.fit is not None:
        assert fitted_on is not None
        weights = average.fit(torch.from_numpy(fitted_on.logits), torch.from_numpy(fitted_on.y))
    p = average.rule(logits.double(), 1.0, share if weights is None else weights)
    measured: dict[str, Any] = metrics.measure(p.numpy(), y, usual, bins)
    return measured if weights is None else {**measured, "weights": weights.tolist()}


def _decided(won: NDArray[np.int64], y: NDArray[np.int64], usual: NDArray[np.int64]) -> dict[str, Any]:
    errors = int((won != y).sum())
    return {
        "accuracy": 1 - errors / len(y),
        "errors": errors,
        "n": len(y),
        "agreement": float((won == usual).mean()),
    }

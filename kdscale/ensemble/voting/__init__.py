"""Voting rules: members as voters who rank the classes, and the ways to elect one.

A vote ends in a winner, not in a distribution, so that a student cannot be taught with it; `kdscale.ensemble.fusion` has
the rules for that. Votes are what evaluation compares those with: these are the rules that Zuchniak 2023 compares for
ensembles of networks. A member has one ballot, or several alike.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from kdscale.ensemble.voting import elimination, pairwise, positional
from kdscale.ensemble.voting.ballots import AT_ONCE, Ballots

__all__ = ["RULES", "Ballots", "Rule", "elect", "whole_ballots"]

Rule = Callable[[Ballots], Tensor]
"""Ballots of B samples -> (B, C) float64 scores, of which the highest wins."""

RULES: dict[str, Rule] = {
    "plurality": positional.plurality,
    "borda": positional.borda,
    "symmetric_borda": positional.symmetric_borda,
    "dowdall": positional.dowdall,
    "bucklin": positional.bucklin,
    "stv": elimination.stv,
    "baldwin": elimination.baldwin,
    "nanson": elimination.nanson,
    "copeland": pairwise.copeland,
    "simpson": pairwise.simpson,
    "condorcet": pairwise.condorcet,
    "schulze": pairwise.schulze,
    "kemeny": pairwise.kemeny,
}

MOST_BALLOTS = 20
"""Ballots of a member at most."""


def elect(
    logits: Tensor, rules: Collection[str] = tuple(RULES), ballots: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """The winners by several rules; the batch is taken in parts, so that its size costs no memory.

    Args:
        logits: (M, N, C) of the members; only their order within a member matters, and, for ties, their softmax.
        rules: names in `RULES`.
        ballots: how many ballots each member casts, all alike; one by default. This is what makes every rule a weighted one.

    Returns:
        For each rule (N,) int64 class numbers.

    Raises:
        UserError: a rule that compares the classes in pairs meets more than `ballots.MOST_CLASSES` of them.
    """
    counts = torch.tensor([1] * len(logits) if ballots is None else ballots)
    members, classes = int(counts.sum()), logits.shape[-1]
    rows = max(1, AT_ONCE // (classes * max(classes, members)))
    won: dict[str, list[Tensor]] = {name: [] for name in rules}
    for part in torch.split(logits, rows, 1):
        cast = Ballots.of(part.repeat_interleave(counts, 0))
        for name in rules:
            won[name].append(cast.elect(RULES[name](cast)))
    return {name: torch.cat(parts) for name, parts in won.items()}


def whole_ballots(weights: Sequence[float], most: int = MOST_BALLOTS) -> list[int]:
    """Numbers of ballots in the proportion of the weights: the smallest that are exact, else the nearest.

    Args:
        most: ballots of a member at most; a member has at least one.
    """
    heaviest = max(weights)
    choices = [[max(1, round(weight / heaviest * ballots)) for weight in weights] for ballots in range(1, most + 1)]

    def error(counts: list[int]) -> float:
        return round(max(abs(n / sum(counts) - w / sum(weights)) for n, w in zip(counts, weights, strict=True)), 9)

    return min(choices, key=error)

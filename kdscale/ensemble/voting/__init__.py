"""Voting rules: members as voters who rank the classes, and the ways to elect one.

A vote ends in a winner, not in a distribution, so that a student cannot be taught with it; `kdscale.ensemble.fusion` has
the rules for that. Votes are what evaluation compares those with: these are the rules that Zuchniak 2023 compares for
ensembles of networks. Members count alike.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from kdscale.ensemble.voting import elimination, pairwise, positional
from kdscale.ensemble.voting.ballots import AT_ONCE, Ballots

__all__ = ["RULES", "Ballots", "Rule", "elect"]

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


def elect(logits: Tensor, rules: Collection[str] = tuple(RULES)) -> dict[str, Tensor]:
    """The winners by several rules; the batch is taken in parts, so that its size costs no memory.

    Args:
        logits: (M, N, C) of the members; only their order within a member matters, and, for ties, their softmax.
        rules: names in `RULES`.

    Returns:
        For each rule (N,) int64 class numbers.

    Raises:
        UserError: a rule that compares the classes in pairs meets more than `ballots.MOST_CLASSES` of them.
    """
    members, _, classes = logits.shape
    rows = max(1, AT_ONCE // (classes * max(classes, members)))
    won: dict[str, list[Tensor]] = {name: [] for name in rules}
    for part in torch.split(logits, rows, 1):
        ballots = Ballots.of(part)
        for name in rules:
            won[name].append(ballots.elect(RULES[name](ballots)))
    return {name: torch.cat(parts) for name, parts in won.items()}

"""Elimination rules: classes are dropped round by round, and the last one left wins.

The score is the number of rounds that a class survives. Of classes that are equally weak, the one with the smaller
summed probability is dropped. Definitions as in Brandt et al. (eds.), Handbook of Computational Social Choice, 2016.
"""

import torch
from torch import Tensor

from kdscale.ensemble.voting.ballots import Ballots


def stv(ballots: Ballots) -> Tensor:
    """Drop the class with the fewest first choices, counted among those left: single transferable vote for one seat.

    Also known as instant runoff (Ware 1871). Classes that are nobody's first choice are dropped together, as no member's
    choice changes by that; so there are at most M rounds, whatever the number of classes.
    """
    alive = torch.ones_like(ballots.places, dtype=torch.bool)
    survived = torch.zeros_like(ballots.places)
    while True:
        choices = ballots.ranks.masked_fill(~alive, ballots.classes).argmin(-1)  # (M, B)
        votes = torch.zeros_like(ballots.places).scatter_add_(-1, choices.T, torch.ones_like(choices.T))
        nobodys = alive & (votes == 0)
        dropped = torch.zeros_like(alive).scatter_(-1, ballots.last(votes, alive)[:, None], True)
        dropped = torch.where(nobodys.any(-1, keepdim=True), nobodys, dropped)
        dropped &= alive.sum(-1, keepdim=True) > 1
        if not dropped.any():
            return survived.double()
        alive &= ~dropped
        survived += alive


def baldwin(ballots: Ballots) -> Tensor:
    """Drop the class with the lowest Borda count among those left, again and again (Baldwin 1926).

    A Condorcet winner is above the average in every round, and so is never dropped.
    """
    totals = _counts(ballots, torch.ones_like(ballots.places, dtype=torch.bool))
    alive = torch.ones_like(ballots.places, dtype=torch.bool)
    survived = torch.zeros_like(ballots.places)
    for _ in range(ballots.classes - 1):
        dropped = ballots.last(totals, alive)[:, None]
        alive.scatter_(-1, dropped, False)
        survived += alive
        above = ballots.ranks < ballots.ranks.gather(-1, dropped.expand(ballots.members, -1, 1))
        totals -= 2 * above.sum(0) - ballots.members  # less the margin over the one that is gone
    return survived.double()


def nanson(ballots: Ballots) -> Tensor:
    """Drop all classes whose Borda count is below the average of those left, until all left are equal (Nanson 1882)."""
    alive = torch.ones_like(ballots.places, dtype=torch.bool)
    survived = torch.zeros_like(ballots.places)
    while True:
        dropped = alive & (_counts(ballots, alive) < 0)
        if not dropped.any():
            return survived.double()
        alive &= ~dropped
        survived += alive


def _counts(ballots: Ballots, alive: Tensor) -> Tensor:
    """(B, C) the symmetric Borda count among the classes alive: their order is Borda's, and their average is 0."""
    ranks = ballots.ranks.long()
    by_place = torch.empty_like(ranks).scatter_(-1, ranks, alive.long().expand_as(ranks))
    above = (by_place.cumsum(-1) - by_place).gather(-1, ranks)
    return (alive.sum(-1, keepdim=True) - 1 - 2 * above).sum(0)

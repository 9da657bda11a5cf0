"""Ballots: what members' logits say once only the order of the classes counts.

Each member is a voter who ranks all classes, most probable first. Voting rules read nothing else, except where they tie:
then the class with the larger summed probability is preferred, and of equal ones the one with the smaller number.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdscale.errors import UserError

AT_ONCE = 1 << 24
"""Pairs of classes, over all rows, that are compared at once: about 8 bytes each, 130 MB together."""
MOST_CLASSES = 8192
"""Classes whose pairs are compared at most: those of a single row then take about 0.5 GB."""
TIE = 1e-9
"""Scores that differ by less are equal: the fractions that Dowdall adds are rounded."""


@dataclass(frozen=True)
class Ballots:
    """The ballots of M members on B samples of C classes.

    Example:
        >>> Ballots.of(torch.tensor([[[2.0, 0.0, 1.0]]])).ranks.tolist()
        [[[0, 2, 1]]]
    """

    ranks: Tensor
    """(M, B, C) int32: the place that a member gives a class, 0 being its first choice. No two classes share one."""
    places: Tensor
    """(B, C) int64: the place of a class by summed probability, 0 the largest; what breaks every tie."""

    @staticmethod
    def of(logits: Tensor) -> "Ballots":
        """Of (M, B, C) logits. Classes that a member finds equally probable it ranks as the ensemble does."""
        by_sum = _summed(logits).sort(dim=-1, descending=True, stable=True).indices
        along = logits.gather(-1, by_sum.expand_as(logits))
        order = by_sum.expand_as(logits).gather(-1, along.sort(dim=-1, descending=True, stable=True).indices)
        return Ballots(_inverse(order).int(), _inverse(by_sum))

    @property
    def members(self) -> int:
        return self.ranks.shape[0]

    @property
    def classes(self) -> int:
        return self.ranks.shape[-1]

    @cached_property
    def margins(self) -> Tensor:
        """(B, C, C) integers: how many more members rank class i above j than j above i; antisymmetric.

        Raises:
            UserError: there are too many classes to compare them all in pairs.
        """
        if self.classes > MOST_CLASSES:
            raise UserError(
                f"fusion: rules that compare the classes in pairs take at most {MOST_CLASSES:,} classes, and there are "
                f"{self.classes:,}; take plurality, borda, dowdall, bucklin, stv, "
                "baldwin or nanson"
            )
        kind = torch.int16 if self.members < 1 << 15 else torch.int32
        above = torch.zeros(*self.places.shape, self.classes, dtype=kind, device=self.ranks.device)
        for ranks in self.ranks:
            above += ranks[:, :, None] < ranks[:, None, :]
        return above - above.transpose(1, 2)

    def elect(self, scores: Tensor) -> Tensor:
        """(B,) the winners by (B, C) scores, the highest winning; ties go to the larger summed probability."""
        tied = scores >= scores.amax(-1, keepdim=True) - TIE
        return self.places.masked_fill(~tied, self.classes).argmin(-1)

    def last(self, scores: Tensor, alive: Tensor) -> Tensor:
        """(B,) the class to drop among those alive (B, C): the lowest integer score, of ties the smallest probability."""
        key = scores.long() * self.classes - self.places
        return key.masked_fill(~alive, torch.iinfo(torch.int64).max).argmin(-1)


def _summed(logits: Tensor) -> Tensor:
    """(B, C) summed probabilities, added in order of size: the order of members must not matter to the last bit."""
    return logits.double().softmax(-1).sort(0).values.sum(0)


def _inverse(order: Tensor) -> Tensor:
    """From the class at each place to the place of each class, along the last axis."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)

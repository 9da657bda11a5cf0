"""Which samples a specialist sees: its own classes and the rest in fixed shares, as a pure function of (seed, step).

Half of the examples are of the specialist's own classes and half are drawn from the rest (Hinton, Vinyals & Dean 2015,
section 5.3). Each half runs through its samples in seeded permutations, so none is seen twice before all are seen
once, and nothing but the step is needed to resume.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.seeds import generator


class Draws:
    """The places, in the training split, of the samples of each batch."""

    def __init__(self, y: NDArray[np.int64], own: list[int], batch_size: int, seed: int, share: float = 0.5):
        """
        Args:
            y: (N,) class numbers of the training split.
            own: the specialist's classes.
            share: of a batch that is of its own classes, to the nearest sample.

        Raises:
            UserError: one kind has no sample, or no place in a batch.
        """
        mine = np.isin(y, own)
        counts = round(batch_size * share), batch_size - round(batch_size * share)
        for kind, places, count in zip(("own classes", "the rest"), (mine, ~mine), counts, strict=True):
            if not places.any():
                raise UserError(f"specialists: the train split has no sample of {kind}; choose other class sets")
            if not count:
                raise UserError(
                    f"specialists: a batch of {batch_size} with a share of {share} has no place for {kind}; "
                    "change the share or the batch size"
                )
        self.prior = float(mine.mean())
        """Share of the own classes in the training split, for the dustbin's shift."""
        self.sampled = counts[0] / batch_size
        """Their share in the batches."""
        self._halves = tuple(
            _Half(seed, part, count, np.flatnonzero(places))
            for part, (count, places) in enumerate(zip(counts, (mine, ~mine), strict=True))
        )

    @property
    def steps_per_epoch(self) -> float:
        """An epoch is one turn through the own classes' samples."""
        return len(self._halves[0].places) / self._halves[0].count

    def steps(self, epochs: float) -> int:
        return math.ceil(round(epochs * self.steps_per_epoch, 6))

    def batch(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) places: those of own classes first."""
        return np.concatenate([half.taken(step) for half in self._halves])

    def turns(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) how often each of these was seen before."""
        return np.concatenate([half.position(step) // len(half.places) for half in self._halves])


@dataclass(frozen=True, eq=False)
class _Half:
    seed: int
    part: int
    count: int
    places: NDArray[np.int64]

    def position(self, step: int) -> NDArray[np.int64]:
        return np.arange(step * self.count, (step + 1) * self.count)

    def taken(self, step: int) -> NDArray[np.int64]:
        turns, within = np.divmod(self.position(step), len(self.places))
        order = [_permutation(self.seed, self.part, int(turn), len(self.places)) for turn in np.unique(turns)]
        chosen: NDArray[np.int64] = self.places[np.stack(order)[turns - turns[0], within]]
        return chosen


@lru_cache(maxsize=8)
def _permutation(seed: int, part: int, turn: int, samples: int) -> NDArray[np.int64]:
    return generator(seed, 3, part, turn).permutation(samples)

"""The order of samples as a pure function of (shard sizes, seed, step).

Position g of the endless global stream belongs to lane ``g mod lanes`` and to epoch ``g // samples``; the batch of
step t is positions ``[t * batch_size, (t + 1) * batch_size)``, so every batch takes the same count from each lane.
In each epoch the shards are put in a seeded order and laid end to end, and each lane takes one contiguous stretch
of that line, equal to within a sample, so lanes stay balanced for any number and size of shards (a shard may then
be read by two neighbouring lanes). A lane permutes its stretch inside windows of bounded size.

A rank owns whole lanes, hence the global batch of a step is the same set for any number of ranks that divides the
lanes, and a resume needs nothing but the step.

The remainder: batches run on across the end of an epoch, so none is short and no sample is skipped. Each epoch
holds each sample exactly once; a training of E epochs is ``ceil(E * samples / batch_size)`` steps, of which the
last one may borrow fewer than ``batch_size`` samples from the epoch after.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdscale.seeds import generator


@dataclass(frozen=True)
class Rows:
    """Samples by place: row `row[i]` of shard `shard[i]`, seen in epoch `epoch[i]`; all (N,) int64."""

    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    epoch: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order in which a split is read."""

    sizes: tuple[int, ...]
    """Samples in each shard, in the manifest's order."""
    seed: int
    batch_size: int
    lanes: int
    window: int

    def __post_init__(self) -> None:
        assert self.batch_size % self.lanes == 0, "the recipe checks that lanes divide the batch"
        assert self.samples > 0

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    @property
    def per_lane(self) -> int:
        """Samples of a batch that come from one lane."""
        return self.batch_size // self.lanes

    def steps(self, epochs: float) -> int:
        return math.ceil(round(epochs * self.samples, 6) / self.batch_size)

    def batch(self, step: int, lanes: range | None = None) -> Rows:
        """The samples of a step, lane by lane; `lanes` picks those of a rank, all by default."""
        parts = [self.lane(lane, step * self.per_lane, self.per_lane) for lane in (lanes or range(self.lanes))]
        return concatenate(parts)

    def lane(self, lane: int, start: int, count: int) -> Rows:
        """Samples `start` to `start + count` of a lane's endless stream."""
        parts: list[Rows] = []
        while count:
            epoch = (start * self.lanes + lane) // self.samples
            offset = start - self._first(epoch, lane)
            number, within = divmod(offset, self.window)
            window = self.read_window(epoch, lane, number)
            taken = slice(within, within + count)
            parts.append(Rows(window.shard[taken], window.row[taken], window.epoch[taken]))
            start += len(parts[-1].row)
            count -= len(parts[-1].row)
        return concatenate(parts)

    def locate(self, lane: int, start: int) -> tuple[int, int, int]:
        """(epoch, window number, place in the window) of sample `start` of a lane's stream."""
        epoch = (start * self.lanes + lane) // self.samples
        return (epoch, *divmod(start - self._first(epoch, lane), self.window))

    def read_window(self, epoch: int, lane: int, number: int) -> Rows:
        """One window of a lane, permuted: the unit of reading."""
        return _window(self, epoch, lane, number)

    def _first(self, epoch: int, lane: int) -> int:
        """Where an epoch begins in a lane's stream."""
        return -((lane - epoch * self.samples) // self.lanes)

    def _stretch(self, epoch: int, lane: int) -> tuple[int, int]:
        """A lane's stretch of an epoch's line of shards, as [begin, end)."""
        counts = [self._first(epoch + 1, i) - self._first(epoch, i) for i in range(lane + 1)]
        return sum(counts[:-1]), sum(counts)


def concatenate(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("shard", "row", "epoch")))


@lru_cache(maxsize=256)
def _window(order: Order, epoch: int, lane: int, number: int) -> Rows:
    line, starts = _line(order.sizes, order.seed, epoch)
    begin, end = order._stretch(epoch, lane)
    begin += number * order.window
    places = np.arange(begin, min(begin + order.window, end))
    places = places[generator(order.seed, 2, epoch, lane, number).permutation(len(places))]
    nth = np.searchsorted(starts, places, side="right") - 1
    return Rows(line[nth], places - starts[nth], np.full(len(places), epoch, np.int64))


@lru_cache(maxsize=8)
def _line(sizes: tuple[int, ...], seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An epoch's shards in their seeded order, and where each begins."""
    line = generator(seed, 1, epoch).permutation(len(sizes))
    lengths = np.asarray(sizes, np.int64)[line]
    return line, np.concatenate([[0], np.cumsum(lengths)[:-1]])

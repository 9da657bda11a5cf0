"""Batches: the order made into tensors, joined with whatever else is known of each sample.

A rank reads its lanes window by window: decoded rows are gathered once a window, together with the rows that a
`Join` adds by key (soft targets, say), and a step slices its share. Views and normalisation happen on the batch,
on its device. Where samples are not decoded already, the next window is read and decoded in the background.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.data import columns, views
from kdscale.data.columns import Columns
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest
from kdscale.data.order import Order, Rows
from kdscale.data.shards import Decoded, dtype
from kdscale.data.subset import Subset
from kdscale.recipe import ViewSpec

Join = Callable[[int, Decoded, int, int], Columns]
"""(shard number, decoded shard, view, epoch) -> what is joined to each of the shard's rows."""


@dataclass(frozen=True)
class Batch:
    """What a step sees."""

    x: Tensor
    """(B, *shape) float32, normalised."""
    y: Tensor
    """(B,) int64 class numbers."""
    targets: Columns = field(default_factory=dict)
    """What the join gave, (B, ...) each."""
    step: int = 0
    """Of the training."""

    def split(self, parts: int) -> list["Batch"]:
        """Equal micro-batches, in order."""
        if parts == 1:
            return [self]
        targets = {name: column.chunk(parts) for name, column in self.targets.items()}
        return [
            Batch(x, y, {name: chunks[part] for name, chunks in targets.items()}, self.step)
            for part, (x, y) in enumerate(zip(self.x.chunk(parts), self.y.chunk(parts), strict=True))
        ]


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On its way to a device; only from pinned memory does a GPU fetch it while the CPU goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Pixels:
    """Raw rows to network input: the view, then the range [0, 1] for images, then normalisation."""

    def __init__(self, manifest: Manifest, normalize: bool, spec: ViewSpec, seed: int, device: torch.device):
        self.spec, self.seed, self.device = spec, seed, device
        image = manifest.sample.kind == "image"
        unit = 255.0 if image else 1.0
        mean = torch.tensor(manifest.mean if normalize else 0.0, dtype=torch.float32, device=device)
        std = torch.tensor(manifest.std if normalize else 1.0, dtype=torch.float32, device=device)
        self.shift = (mean * unit).view(-1, 1, 1) if image else mean
        self.factor = (1 / (std * unit)).view(-1, 1, 1) if image else 1 / std

    def __call__(
        self,
        x: NDArray[np.generic],
        ids: NDArray[np.uint64],
        view: NDArray[np.int64],
        seeds: NDArray[np.uint64] | None = None,
    ) -> Tensor:
        """(B, *shape) raw rows, (B,) ids and view numbers -> (B, *shape) float32; `seeds` replaces the seed row by row."""
        raw = _sent(torch.from_numpy(x), self.device)
        seed = self.seed if seeds is None else seeds
        return (views.make(raw, self.spec, seed, ids, view).float() - self.shift) * self.factor


@dataclass(frozen=True)
class _Window:
    x: NDArray[np.generic]
    ids: NDArray[np.uint64]
    y: NDArray[np.int64]
    view: NDArray[np.int64]
    targets: Columns


@dataclass(frozen=True)
class _Samples:
    """A window's samples, before anything is joined."""

    x: NDArray[np.generic]
    ids: NDArray[np.uint64]
    y: NDArray[np.int64]
    sources: list[tuple[int, Decoded, NDArray[np.int64], NDArray[np.int64]]]
    """(shard number, its keys, where in the window, which of its rows)."""


Raw = tuple[NDArray[np.generic], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]
"""Raw rows, ids, class numbers and view numbers."""


def _columns(parts: list[tuple[_Window, slice]]) -> Raw:
    x, ids, y, view = (
        np.concatenate([getattr(window, name)[rows] for window, rows in parts]) for name in ("x", "ids", "y", "view")
    )
    return x, ids, y, view


class Batches:
    """The batches of a rank: a function of the step.

    Any step may be asked for; asking in order costs one gather a window.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        pixels: Pixels,
        view_of_epoch: Callable[[int], int],
        lanes: Sequence[int],
        join: Join | None = None,
        subset: Subset | None = None,
    ):
        """`view_of_epoch` names the view that an epoch sees; `lanes` are those the rank owns; `order` is that of the subset."""
        self.subset = subset
        self.dataset, self.order, self.pixels = dataset, order, pixels
        self.view_of_epoch, self.lanes, self.join = view_of_epoch, lanes, join
        self._held: dict[int, tuple[tuple[int, int], _Window]] = {}
        self._ahead: dict[int, tuple[tuple[int, int], Future[_Samples]]] = {}
        self._reader: ThreadPoolExecutor | None = None

    def __call__(self, step: int) -> Batch:
        parts = self._parts(step)
        x, ids, y, view = _columns(parts)
        names = parts[0][0].targets
        targets = {name: columns.stack([window.targets[name][rows] for window, rows in parts]) for name in names}
        device = self.pixels.device
        return Batch(
            x=self.pixels(x, ids, view),
            y=_sent(torch.from_numpy(y), device),
            targets={name: _sent(column, device) for name, column in targets.items()},
            step=step,
        )

    def rows(self, step: int) -> "Raw":
        """What a step's batch is made of, before views; without what is joined."""
        return _columns(self._parts(step))

    def _parts(self, step: int) -> list[tuple[_Window, slice]]:
        return [part for lane in self.lanes for part in self._slices(lane, step)]

    def _slices(self, lane: int, step: int) -> list[tuple[_Window, slice]]:
        start, left = step * self.order.per_lane, self.order.per_lane
        parts = []
        while left:
            epoch, number, within = self.order.locate(lane, start)
            window = self._window(lane, epoch, number)
            self._read_ahead(lane, start - within + len(window.y))
            taken = min(left, len(window.y) - within)
            parts.append((window, slice(within, within + taken)))
            start, left = start + taken, left - taken
        return parts

    def _window(self, lane: int, epoch: int, number: int) -> _Window:
        held = self._held.get(lane)
        if held is None or held[0] != (epoch, number):
            held = ((epoch, number), self._gather(self._rows(epoch, lane, number), lane, epoch, number))
            self._held[lane] = held
        return held[1]

    def _rows(self, epoch: int, lane: int, number: int) -> Rows:
        rows = self.order.read_window(epoch, lane, number)
        return rows if self.subset is None else self.subset.place(rows)

    def _read_ahead(self, lane: int, start: int) -> None:
        """Begin to read the window of sample `start` of a lane, unless samples are decoded already."""
        if self.dataset.keep:
            return
        epoch, number, _ = self.order.locate(lane, start)
        if lane in self._ahead and self._ahead[lane][0] == (epoch, number):
            return
        self._reader = self._reader or ThreadPoolExecutor(1, "reader")
        rows = self._rows(epoch, lane, number)
        self._ahead[lane] = (epoch, number), self._reader.submit(self._samples, rows)

    def _gather(self, rows: Rows, lane: int, epoch: int, number: int) -> _Window:
        view = self.view_of_epoch(epoch)
        ahead = self._ahead.pop(lane, None)
        known = ahead is not None and ahead[0] == (epoch, number)
        samples = ahead[1].result() if ahead is not None and known else self._samples(rows)
        n = len(samples.y)
        targets: Columns = {}
        if self.join is not None:
            for shard, decoded, where, taken in samples.sources:
                rows_to, rows_from = torch.from_numpy(where), torch.from_numpy(taken)
                for name, joined in self.join(shard, decoded, view, epoch).items():
                    targets[name] = columns.place(targets.get(name), n, rows_to, joined[rows_from])
        return _Window(samples.x, samples.ids, samples.y, np.full(n, view, np.int64), targets)

    def _samples(self, rows: Rows) -> _Samples:
        n = len(rows.row)
        spec = self.dataset.manifest.sample
        x = np.empty((n, *spec.shape), dtype(spec))
        ids, y = np.empty(n, np.uint64), np.empty(n, np.int64)
        sources = []
        for number in np.unique(rows.shard):
            where = np.flatnonzero(rows.shard == number)
            taken = rows.row[where]
            decoded, first = self.dataset.stretch(int(number), int(taken.min()), int(taken.max()) + 1)
            x[where], ids[where], y[where] = decoded.x[taken - first], decoded.ids[taken], decoded.y[taken]
            sources.append((int(number), decoded, where, taken))
        return _Samples(x, ids, y, sources)


class PackedBatches:
    """The batches of several members, one above the other: x is (N, B, *shape), y is (N, B).

    Each member keeps its own order and views; the views of all are made in one go.
    """

    def __init__(self, members: Sequence[Batches]):
        """The members differ in nothing but their seeds, and join nothing."""
        assert members
        assert all(member.join is None for member in members)
        self.members, self.pixels = members, members[0].pixels

    def __call__(self, step: int) -> Batch:
        columns_of = list(zip(*(member.rows(step) for member in self.members), strict=True))
        x, ids, y, view = (np.concatenate(column) for column in columns_of)
        many, each = len(self.members), len(y) // len(self.members)
        seeds = np.repeat(np.array([member.pixels.seed for member in self.members], np.uint64), each)
        labels = _sent(torch.from_numpy(y), self.pixels.device)
        made = self.pixels(x, ids, view, seeds)
        return Batch(x=made.view(many, each, *made.shape[1:]), y=labels.view(many, each))

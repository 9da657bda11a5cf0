"""A split of a dataset, open for reading.

One that fits is kept decoded, in memory and beside the dataset. Of a larger one, training reads stretches, each by its range
of bytes, so that neither memory nor a restart pays for whole shards.
"""

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdscale.data import decoded as kept
from kdscale.data import index, ranges, shards
from kdscale.data.index import Index, Places
from kdscale.data.manifest import Manifest, Shard
from kdscale.data.shards import Decoded
from kdscale.errors import UserError

CACHE_BYTES = 2 << 30
"""Decoded shards kept by one process; the least recently used go first."""
NEAR = 4
"""Rows of a shard that lie so near are read in one go, with those between them."""


class Dataset:
    """One split, shard by shard."""

    def __init__(self, folder: Path, split: str, manifest: Manifest | None = None, cache_bytes: int = CACHE_BYTES):
        self.folder = folder
        self.split = split
        self.manifest = manifest or Manifest.load(folder)
        if not self.manifest.splits.get(split):
            raise UserError(f"{folder}: the dataset has no {split} split; import it with data.{split} above 0")
        self.keep = kept.fits(self.manifest.sample, self.manifest.samples(split))
        self._cache: OrderedDict[int, Decoded] = OrderedDict()
        self._left = cache_bytes
        self._lock = threading.Lock()
        self._indices: dict[int, tuple[Index, NDArray[np.uint64]]] = {}

    @property
    def shards(self) -> list[Shard]:
        return self.manifest.splits[self.split]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(shard.samples for shard in self.shards)

    @property
    def classes(self) -> int:
        return len(self.manifest.classes)

    def decoded(self, number: int) -> Decoded:
        """Shard `number` of the split.

        Raises:
            UserError: the shard does not match the manifest or cannot be decoded.
        """
        with self._lock:  # batches read ahead in another thread
            return self._decoded(number)

    def _decoded(self, number: int) -> Decoded:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        shard = self.shards[number]
        shards.check_size(url(self.folder, shard), shard)
        decoded = kept.load(self.folder, shard, self.manifest)
        if decoded is None:
            places = Places()
            decoded = shards.decode(url(self.folder, shard), shard, self.manifest.sample, self.classes, places)
            if self.keep:
                kept.keep(self.folder, shard, decoded)
            else:
                index.keep(self.folder, shard, places.index(decoded.keys, decoded.y))
        self._cache[number] = decoded
        self._left -= decoded.x.nbytes
        while self._left < 0 and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._left += dropped.x.nbytes
        return decoded

    def labels(self, number: int) -> NDArray[np.int64]:
        """(N,) class numbers of a shard, from its index if it has one."""
        known = None if self.keep or number in self._cache else self._index(number)
        return self.decoded(number).y if known is None else known[0].y

    def all_labels(self) -> NDArray[np.int64]:
        """(N,) class numbers of the whole split."""
        return np.concatenate([self.labels(number) for number in range(len(self.shards))])

    def rows(self, number: int, taken: NDArray[np.int64]) -> Decoded:
        """These samples of a shard, in this order; of a large split, read where they lie and not with the whole shard.

        Raises:
            UserError: as for `decoded`.
        """
        order = np.argsort(taken, kind="stable")
        ascending = taken[order]
        runs = np.split(ascending, np.flatnonzero(np.diff(ascending) > NEAR) + 1)
        x: NDArray[np.generic] | None = None
        at = 0
        for run in runs:
            there, first = self.stretch(number, int(run[0]), int(run[-1]) + 1)
            if x is None:
                x = np.empty((len(taken), *there.x.shape[1:]), there.x.dtype)
            x[order[at : at + len(run)]] = there.x[run - first]
            at += len(run)
        assert x is not None, "at least one sample is taken"
        return Decoded([there.keys[row] for row in taken], there.ids[taken], x, there.y[taken])

    def stretch(self, number: int, first: int, last: int) -> tuple[Decoded, int]:
        """Shard `number`, of which samples [first, last) at least are there in `x`; and the row that `x` begins with.

        Keys, ids and class numbers are there for the whole shard.
        """
        shard = self.shards[number]
        where = url(self.folder, shard)
        known = None if self.keep or number in self._cache or not ranges.ranged(where) else self._index(number)
        if known is None:
            return self.decoded(number), 0
        x = shards.decode_stretch(where, shard, self.manifest.sample, known[0], first, last)
        return Decoded(known[0].keys, known[1], x, known[0].y), first

    def _index(self, number: int) -> tuple[Index, NDArray[np.uint64]] | None:
        """A shard's index and its samples' ids, if it was read to its end before."""
        if number not in self._indices:
            loaded = index.load(self.folder, self.shards[number])
            if loaded is None or (loaded.y.size and int(loaded.y.max()) >= self.classes):
                return None
            self._indices[number] = loaded, shards.ids_of(loaded.keys)
        return self._indices[number]


def url(folder: Path, shard: Shard) -> str:
    """Where a shard lies: its own URL or absolute path, or its name within the dataset's folder."""
    return shard.name if "://" in shard.name or shard.name.startswith("pipe:") else str(folder / shard.name)

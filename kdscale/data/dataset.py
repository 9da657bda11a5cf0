"""A split of a dataset, open for reading: decoded shards, kept in memory while they fit."""

from collections import OrderedDict
from pathlib import Path

from kdscale.data import decoded as kept
from kdscale.data import shards
from kdscale.data.manifest import Manifest, Shard
from kdscale.data.shards import Decoded
from kdscale.errors import UserError

CACHE_BYTES = 2 << 30
"""Decoded shards kept by one process; the least recently used go first."""


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
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        shard = self.shards[number]
        shards.check_size(url(self.folder, shard), shard)
        decoded = kept.load(self.folder, shard, self.manifest)
        if decoded is None:
            decoded = shards.decode(url(self.folder, shard), shard, self.manifest.sample, self.classes)
            if self.keep:
                kept.keep(self.folder, shard, decoded)
        self._cache[number] = decoded
        self._left -= decoded.x.nbytes
        while self._left < 0 and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._left += dropped.x.nbytes
        return decoded


def url(folder: Path, shard: Shard) -> str:
    """Where a shard lies: its own URL or absolute path, or its name within the dataset's folder."""
    return shard.name if "://" in shard.name or shard.name.startswith("pipe:") else str(folder / shard.name)

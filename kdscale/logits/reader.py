"""The reader: members' blocks of a shard, joined to its rows by key."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np

from kdscale.data.batches import Columns
from kdscale.data.dataset import Dataset
from kdscale.data.shards import Decoded
from kdscale.errors import UserError
from kdscale.logits.rows import Logits, Sparse
from kdscale.logits.store import Slot, Store

Rows = Logits | Sparse
Fuse = Callable[[Sequence[Rows]], Columns]
"""What the members say of the same N rows -> one target for each row, as named tensors."""


def member_rows(store: Store, slot: Slot, checkpoint: str, keys: list[str], temperature: float) -> Rows:
    """One member's rows of a shard at a temperature, in the order of `keys`.

    Raises:
        UserError: the block is missing, damaged, of other weights, lacks a key, or does not serve the temperature.
    """
    block = store.read(slot, checkpoint)
    rows = block.at(temperature)
    if block.keys == keys:
        return rows
    place = {key: row for row, key in enumerate(block.keys)}
    missing = next((key for key in keys if key not in place), None)
    if missing is not None:
        raise UserError(
            f"{store.folder}: {slot.path} has no row for the sample {missing} of {PurePosixPath(slot.shard).name}; "
            "the store does not match the data"
        )
    return rows.take(np.array([place[key] for key in keys], np.int64))


class Targets:
    """A `Join` that gives each row its fused target; fused shards are kept for the next window and epoch."""

    def __init__(
        self,
        store: Store,
        dataset: Dataset,
        members: dict[str, str],
        temperature: float,
        fuse: Fuse,
        keep_bytes: int = 1 << 30,
    ):
        """`members` are checkpoint hashes by member, any subset of those in the store."""
        self.store, self.dataset, self.members = store, dataset, members
        self.temperature, self.fuse = temperature, fuse
        self._kept: dict[tuple[int, int], Columns] = {}
        self._left = keep_bytes

    def __call__(self, number: int, decoded: Decoded, view: int) -> Columns:
        """The targets of a shard's view."""
        if (number, view) in self._kept:
            return self._kept[number, view]
        shard = self.dataset.shards[number].name
        target = self.fuse(
            [
                member_rows(self.store, Slot(shard, view, member), checkpoint, decoded.keys, self.temperature)
                for member, checkpoint in self.members.items()
            ]
        )
        while self._kept and self._left < _size(target):
            self._left += _size(self._kept.pop(next(iter(self._kept))))
        self._kept[number, view] = target
        self._left -= _size(target)
        return target


def _size(columns: Columns) -> int:
    return sum(column.numel() * column.element_size() for column in columns.values())

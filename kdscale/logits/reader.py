"""The reader: members' blocks of a shard, joined to its rows by key."""

from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.data.dataset import Dataset
from kdscale.data.shards import Decoded
from kdscale.errors import UserError
from kdscale.logits.store import Slot, Store

Fuse = Callable[[Tensor], Tensor]
"""(M, N, C) float32 logits -> (N, ...) one row a sample."""


def members_logits(
    store: Store, shard: str, view: int, members: dict[str, str], keys: list[str]
) -> NDArray[np.float32]:
    """(M, N, C) float32 logits of a shard, rows in the order of `keys`.

    Args:
        members: checkpoint hash by member.

    Raises:
        UserError: a block is missing, damaged, of other weights, or lacks a key.
    """
    logits = np.empty((len(members), len(keys), store.info.classes), np.float32)
    for m, (member, checkpoint) in enumerate(members.items()):
        slot = Slot(shard, view, member)
        block = store.read(slot, checkpoint)
        if block.keys == keys:
            logits[m] = block.logits
            continue
        place = {key: row for row, key in enumerate(block.keys)}
        missing = next((key for key in keys if key not in place), None)
        if missing is not None:
            raise UserError(
                f"{store.folder}: {slot.path} has no row for the sample {missing} of {PurePosixPath(shard).name}; "
                "the store does not match the data"
            )
        logits[m] = block.logits[[place[key] for key in keys]]
    return logits


class Targets:
    """A `Join` that gives each row its fused target; fused shards are kept for the next window and epoch."""

    def __init__(self, store: Store, dataset: Dataset, members: dict[str, str], fuse: Fuse, keep_bytes: int = 1 << 30):
        self.store, self.dataset, self.members, self.fuse = store, dataset, members, fuse
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._left = keep_bytes

    def __call__(self, number: int, decoded: Decoded, view: int) -> Tensor:
        """(N, ...) targets of a shard's view."""
        if (number, view) in self._kept:
            return self._kept[number, view]
        shard = self.dataset.shards[number].name
        logits = members_logits(self.store, shard, view, self.members, decoded.keys)
        target = self.fuse(torch.from_numpy(logits))
        size = target.numel() * target.element_size()
        while self._kept and self._left < size:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._left += oldest.numel() * oldest.element_size()
        self._kept[number, view] = target
        self._left -= size
        return target

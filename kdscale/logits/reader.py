"""The reader: a member's block of a shard, joined to rows by key."""

from pathlib import PurePosixPath

import numpy as np

from kdscale.errors import UserError
from kdscale.logits.records import Slot
from kdscale.logits.rows import Logits, Sparse
from kdscale.logits.store import Store


def member_rows(
    store: Store, slot: Slot, checkpoint: str | None, keys: list[str], temperature: float
) -> Logits | Sparse:
    """One member's rows of a shard at a temperature, in the order of `keys`.

    Args:
        checkpoint: sha256 of the weights that must have made the block; None for any.

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
            f"{store.name}: {slot.path} has no row for the sample {missing} of {PurePosixPath(slot.shard).name}; "
            "the store does not match the data"
        )
    return rows.take(np.array([place[key] for key in keys], np.int64))

"""The producer: one shard, one view, one member in; one committed block out.

`predict` is any callable from a batch to logits, so a store can be written from networks that kdscale never trained.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.errors import RunFailure, UserError
from kdscale.logits.records import Record, Slot
from kdscale.logits.store import Store

BATCH = 512
"""Rows of one forward pass."""
Predict = Callable[[Any], Any]
"""(B, ...) input -> (B, C) logits or log-probabilities: a tensor on any device, or an array."""


def label(
    store: Store,
    member: str,
    checkpoint: str,
    predict: Predict,
    shards: Iterable[tuple[str, Sequence[str], Any]],
    view: int = 0,
    batch_size: int = BATCH,
) -> int:
    """Label shards by one network and commit a block for each; shards that are labelled already are left alone.

    Args:
        checkpoint: names the network's weights: another name, another network.
        shards: (name, keys, (N, ...) input) of each shard. Names and keys are one's own; a key names one sample of the
            store. The input is a tensor, an array or a list: `predict` gets slices of it.

    Returns:
        The number of blocks that were written.

    Raises:
        UserError: keys, input and logits do not fit each other or the store, or a shard has a key twice.
        RunFailure: logits are not finite, or other weights labelled the shard.
    """
    written = 0
    for shard, keys, x in shards:
        slot = Slot(shard, view, member)
        there = store.record(slot)
        if there is not None and there.checkpoint != checkpoint:
            raise RunFailure(
                f"{store.name}: {slot.path} is already committed with checksum {there.checksum} by the weights "
                f"{there.checkpoint[:40]}; give other weights another name, or make the slot empty with Store.retract"
            )
        if there is None:
            _check_keys(store, slot, keys, len(x))
            logits = _logits(predict, store, slot, len(keys), x.__getitem__, batch_size)
            store.commit(slot, keys, logits, checkpoint)
            written += 1
    store.commits.compact()
    return written


def label_shard(
    store: Store,
    dataset: Dataset,
    number: int,
    view: int,
    member: str,
    checkpoint: str,
    predict: Predict,
    pixels: Pixels,
    batch_size: int = BATCH,
) -> Record:
    """Label shard `number` of a kdscale dataset and commit the block; a slot that is already committed is left alone.

    Args:
        pixels: makes the view and normalises, on the device `predict` works on.
        checkpoint: sha256 of the weights behind `predict`.
    """
    shard = dataset.shards[number]
    slot = Slot(shard.name, view, member)
    there = store.record(slot, checkpoint)
    if there is not None:
        return there
    decoded = dataset.decoded(number)

    def inputs(rows: slice) -> Tensor:
        return pixels(decoded.x[rows], decoded.ids[rows], np.full(len(decoded.ids[rows]), view, np.int64))

    logits = _logits(predict, store, slot, shard.samples, inputs, batch_size)
    return store.commit(slot, decoded.keys, logits, checkpoint, shard.sha256)


def _logits(
    predict: Predict, store: Store, slot: Slot, rows: int, inputs: Callable[[slice], Any], batch_size: int
) -> NDArray[np.float32]:
    logits = np.empty((rows, store.info.classes), np.float32)
    with torch.inference_mode():
        for start in range(0, rows, batch_size):
            batch = slice(start, min(start + batch_size, rows))
            given = torch.as_tensor(predict(inputs(batch)))
            if given.shape != logits[batch].shape:
                raise UserError(
                    f"{store.name}: {slot.path} needs logits of shape {logits[batch].shape} for a batch, rows by "
                    f"classes, and {slot.member} gave {tuple(given.shape)}"
                )
            logits[batch] = given.float().cpu().numpy()
    return logits


def _check_keys(store: Store, slot: Slot, keys: Sequence[str], inputs: int) -> None:
    where = f"{store.name}: shard {slot.shard}"
    if len(keys) != inputs:
        raise UserError(f"{where} came with {len(keys)} keys for {inputs} inputs; each input needs one key")
    wrong = next((key for key in keys if not isinstance(key, str)), None)
    if wrong is not None:
        raise UserError(f"{where} has the key {wrong!r}; keys are strings, so give str(key)")
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise UserError(f"{where} has the key {twice} twice; a key names one sample")

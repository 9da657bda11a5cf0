"""The producer: one shard, one view, one member in; one committed block out.

`predict` is any callable from a batch to logits, so a store can be written from networks that kdscale never trained.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.logits.records import Record, Slot
from kdscale.logits.store import Store

BATCH = 512
"""Rows of one forward pass."""
Predict = Callable[[Tensor], Tensor]
"""(B, ...) input -> (B, C) logits."""


def label(
    store: Store,
    member: str,
    checkpoint: str,
    predict: Predict,
    shards: Iterable[tuple[str, Sequence[str], Tensor]],
    view: int = 0,
    batch_size: int = BATCH,
) -> int:
    """Label shards by one network and commit a block for each; shards that are labelled already are left alone.

    Args:
        checkpoint: names the network's weights: another name, another network.
        shards: (name, keys, (N, ...) input) of each shard; names and keys are one's own.

    Returns:
        The number of blocks that were written.

    Raises:
        RunFailure: logits are not finite, or other weights labelled the shard.
    """
    written = 0
    for shard, keys, x in shards:
        slot = Slot(shard, view, member)
        there = store.record(slot, checkpoint)
        if there is None or there.checkpoint != checkpoint:
            logits = _logits(predict, store.info.classes, len(keys), x.__getitem__, batch_size)
            store.commit(slot, keys, logits, checkpoint)
            written += 1
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
    if there is not None and there.checkpoint == checkpoint:
        return there
    decoded = dataset.decoded(number)

    def inputs(rows: slice) -> Tensor:
        return pixels(decoded.x[rows], decoded.ids[rows], np.full(len(decoded.ids[rows]), view, np.int64))

    logits = _logits(predict, store.info.classes, shard.samples, inputs, batch_size)
    return store.commit(slot, decoded.keys, logits, checkpoint, shard.sha256)


def _logits(
    predict: Predict, classes: int, rows: int, inputs: Callable[[slice], Tensor], batch_size: int
) -> NDArray[np.float32]:
    logits = np.empty((rows, classes), np.float32)
    with torch.inference_mode():
        for start in range(0, rows, batch_size):
            batch = slice(start, min(start + batch_size, rows))
            logits[batch] = predict(inputs(batch)).float().cpu().numpy()
    return logits

"""The producer: one shard, one view, one member in; one committed block out.

`predict` is any callable from a batch to logits, so a store can be written from networks that kdscale never trained.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.logits.store import Record, Slot, Store

BATCH = 512
"""Rows of one forward pass."""


def label_shard(
    store: Store,
    dataset: Dataset,
    number: int,
    view: int,
    member: str,
    checkpoint: str,
    predict: Callable[[Tensor], Tensor],
    pixels: Pixels,
    batch_size: int = BATCH,
) -> Record:
    """Label shard `number` of the dataset and commit the block; a slot that is already committed is left alone.

    Args:
        predict: (B, *shape) float32 -> (B, C) logits.
        pixels: makes the view and normalises, on the device `predict` works on.
        checkpoint: sha256 of the weights behind `predict`.
    """
    shard = dataset.shards[number]
    slot = Slot(shard.name, view, member)
    there = store.record(slot)
    if there is not None and there.checkpoint == checkpoint:
        return there
    decoded = dataset.decoded(number)
    logits = np.empty((shard.samples, store.info.classes), np.float32)
    with torch.inference_mode():
        for start in range(0, shard.samples, batch_size):
            rows = slice(start, start + batch_size)
            x = pixels(decoded.x[rows], decoded.ids[rows], np.full(len(decoded.ids[rows]), view, np.int64))
            logits[rows] = predict(x).float().cpu().numpy()
    return store.commit(slot, decoded.keys, logits, checkpoint, shard.sha256)

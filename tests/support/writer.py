"""One of several writers of a store: `python writer.py WHERE SEED` prints how many of its blocks were refused."""

import sys
from contextlib import suppress

import numpy as np

from kdscale.errors import RunFailure
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store

INFO = StoreInfo(dataset="d", classes=20)
SHARDS, ROWS = 6, 30


def write(where: str, seed: int) -> int:
    """Label every shard; all writers agree on one member, have one of their own, and fight for a third."""
    store = Store.create(where, INFO)
    won = 0
    for shard in range(SHARDS):
        z = np.random.default_rng(shard).normal(size=(ROWS, 20)).astype(np.float32)
        keys = [f"{shard}-{row}" for row in range(ROWS)]
        store.commit(Slot(f"s-{shard}.tar", 0, "shared"), keys, z, "same weights")
        store.commit(Slot(f"s-{shard}.tar", 0, f"own-{seed}"), keys, z + seed, f"weights {seed}")
        with suppress(RunFailure):
            store.commit(Slot(f"s-{shard}.tar", 0, "fought-for"), keys, z + seed, f"weights {seed}")
            won += 1
        store.commits.compact(at_least=4)
    return SHARDS - won


if __name__ == "__main__":
    print(write(sys.argv[1], int(sys.argv[2])))

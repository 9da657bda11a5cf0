"""Capacity: planned sizes are those of real blocks."""

import numpy as np
import pytest

from kdscale.logits import codecs
from kdscale.logits.capacity import Plan
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "dense", "dtype": "float16"},
        {"name": "dense", "dtype": "int8"},
        {"name": "topk", "k": 8, "temperatures": [1.0]},
        {"name": "sampled", "draws": 12, "temperature": 1.0},
    ],
    ids=lambda codec: codec.get("dtype", codec["name"]),
)
def test_a_store_takes_no_more_than_planned(tmp_path, codec: dict) -> None:
    samples, shard, classes, members = 4000, 2000, 1000, 2
    store = Store.create(tmp_path, StoreInfo(dataset="d", classes=classes, codec=codec))
    for member in range(members):
        for start in range(0, samples, shard):
            z = np.random.default_rng((member, start)).normal(size=(shard, classes)).astype(np.float32) * 3
            keys = [f"train-{start + row:08d}" for row in range(shard)]
            store.commit(Slot(f"s-{start}.tar", 0, f"seed-{member}"), keys, z, "w")
    need = Plan(samples, classes, members, 1, shard).need("it", codecs.from_description(codec))
    blocks, rows, size = store.listing().totals()
    assert (blocks, rows) == (need.files, samples * members)
    assert 0.5 * need.total < size <= need.total

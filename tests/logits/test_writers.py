"""Many writers at once, in a folder and in a bucket: each slot is taken once, and nothing is lost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import writer
from support.writer import INFO, ROWS, SHARDS

from kdscale.errors import RunFailure
from kdscale.logits.records import Slot
from kdscale.logits.store import Store


def test_duplicates_change_nothing_and_conflicts_are_refused(where: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, writer.__file__, where, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    refused = [int(process.communicate()[0]) for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0]
    assert sum(refused) == 2 * SHARDS
    store = Store.open(where)
    records = list(store.listing())
    assert len({record.slot for record in records}) == len(records) == 5 * SHARDS
    for record in records:
        assert len(store.read(record.slot)) == ROWS


def test_a_store_in_a_bucket_is_like_one_in_a_folder(where: str, tmp_path: Path) -> None:
    stores = [Store.create(where, INFO), Store.create(tmp_path / "other", INFO)]
    z = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    keys = [str(row) for row in range(30)]
    records = [store.commit(Slot("s", 0, "m"), keys, z, "w", "sha") for store in stores]
    assert records[0] == records[1]
    blocks = [store.read(Slot("s", 0, "m"), "w") for store in stores]
    assert blocks[0].keys == blocks[1].keys
    assert (blocks[0].logits == blocks[1].logits).all()
    with pytest.raises(RunFailure, match="already committed with checksum"):
        stores[0].commit(Slot("s", 0, "m"), keys, z + 1, "w2")

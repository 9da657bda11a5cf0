"""Writers that are killed at any moment: what is visible is whole, and going on ends in the undisturbed store."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from kdscale.logits import commits
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store

SHARDS, MEMBERS, ROWS, CLASSES = 12, 2, 64, 50
KILLS = int(os.environ.get("KDSCALE_KILLS", "100"))
INFO = StoreInfo(dataset="d", classes=CLASSES)


def fill(folder: Path) -> None:
    """What a writer does: label whatever is missing, compacting now and then."""
    store = Store.create(folder, INFO)
    for member in range(MEMBERS):
        for shard in range(SHARDS):
            slot = Slot(f"train-{shard:06d}.tar", 0, f"seed-{member}")
            if store.record(slot) is None:
                z = np.random.default_rng((member, shard)).normal(size=(ROWS, CLASSES)).astype(np.float32)
                store.commit(slot, [f"{shard}-{row}" for row in range(ROWS)], z, f"weights-{member}", "sha")
            store.commits.compact()


def blocks(folder: Path) -> dict[str, bytes]:
    """The bytes of every block that a record names."""
    store = Store.open(folder)
    return {record.slot.path: bytes(store.place.read(record.file)) for record in store.listing()}


@pytest.mark.parametrize("writers", [1, 2])
def test_killed_writers_leave_a_whole_store(tmp_path: Path, monkeypatch, writers: int) -> None:
    monkeypatch.setattr(commits, "LEAST", 3)
    start = time.monotonic()
    fill(tmp_path / "undisturbed")
    seconds = time.monotonic() - start
    expected = blocks(tmp_path / "undisturbed")
    assert len(expected) == SHARDS * MEMBERS
    moments = random.Random(writers)
    folder, seen, cut_short = tmp_path / "killed", 0, 0
    for _ in range(KILLS):
        pids = []
        for _ in range(writers):
            if (pid := os.fork()) == 0:
                os.nice(5)
                fill(folder)
                os._exit(0)
            pids.append(pid)
        time.sleep(moments.uniform(0, 1.5 * seconds / KILLS * writers))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            cut_short += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        if (folder / "store.json").exists():
            store = Store.open(folder)
            for record in store.listing():
                assert len(store.read(record.slot)) == ROWS  # verified by its checksum
            there = blocks(folder)
            assert there.items() <= expected.items()
            assert len(there) >= seen  # nothing that was committed is lost
            seen = len(there)
    assert cut_short >= KILLS / 2
    fill(folder)
    assert blocks(folder) == expected

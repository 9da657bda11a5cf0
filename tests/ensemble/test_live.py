"""Live: a student that begins before its ensemble is whole, and a restart that sees the same."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.data import columns
from kdscale.ensemble import live as module
from kdscale.ensemble.live import Live
from kdscale.ensemble.targets import Targets
from kdscale.errors import RunFailure, Stopped
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store
from kdscale.training import objectives

KEYS = ["a", "b", "c"]
MEMBERS = {f"seed-{m}": f"w{m}" for m in range(4)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(
        tmp_path / "store", StoreInfo(dataset="d", classes=5, codec={"name": "dense", "dtype": "float32"})
    )


def label(store: Store, *members: int, shard: str = "s") -> None:
    for m in members:
        z = np.random.default_rng(m).normal(size=(3, 5)).astype(np.float32)
        store.commit(Slot(shard, 0, f"seed-{m}"), KEYS, z, f"w{m}")


def follow(store: Store, folder: Path, quorum: int = 1, epochs: float = 10, **how) -> Live:
    names = list(MEMBERS)
    return Live(
        store, names, how.pop("trained", lambda: MEMBERS), folder, quorum, epochs, how.pop("deadline", 5.0), **how
    )


def test_an_epoch_needs_the_quorum_at_first_and_all_in_the_end(store: Store, tmp_path: Path) -> None:
    ten = follow(store, tmp_path, quorum=1, epochs=10)
    needed = [ten.needed(epoch) for epoch in range(12)]
    assert needed[0] == 1
    assert needed[9:] == [4, 4, 4]
    assert needed == sorted(needed)
    assert [follow(store, tmp_path, quorum=3, epochs=2.5).needed(e) for e in range(3)] == [3, 4, 4]
    assert follow(store, tmp_path, quorum=2, epochs=1).needed(0) == 4


def test_who_was_there_is_kept_for_other_ranks_and_restarts(store: Store, tmp_path: Path) -> None:
    label(store, 0, 2)
    one = follow(store, tmp_path / "job")
    assert one.present("s", 0, 0) == {"seed-0": "w0", "seed-2": "w2"}
    label(store, 1, 3)
    again = follow(Store.open(store.name), tmp_path / "job")
    assert again.present("s", 0, 0) == {"seed-0": "w0", "seed-2": "w2"}
    assert again.present("s", 0, 1) == MEMBERS
    assert one.present("s", 0, 1) == MEMBERS


def test_targets_are_those_of_the_members_that_were_there(store: Store, tmp_path: Path) -> None:
    label(store, 0, 2)
    targets = Targets(store, 2.0, live=follow(store, tmp_path / "job"))
    early = targets.shard("s", KEYS, 0, epoch=0)
    assert early["members"].tolist() == [2, 2, 2]
    assert torch.equal(early["p"], Targets(store, 2.0, ["seed-0", "seed-2"]).shard("s", KEYS)["p"])
    label(store, 1, 3)
    late = targets.shard("s", KEYS, 0, epoch=9)
    assert late["members"].tolist() == [4, 4, 4]
    assert torch.equal(late["p"], Targets(store, 2.0).shard("s", KEYS)["p"])
    assert torch.equal(targets.shard("s", KEYS, 0, epoch=0)["p"], early["p"])


def test_a_shard_that_is_not_there_yet_is_waited_for(store: Store, tmp_path: Path) -> None:
    writer = threading.Timer(0.2, label, (Store.open(store.name), 0, 1))
    writer.start()
    assert len(follow(store, tmp_path / "job", quorum=2).present("s", 0, 0)) == 2
    writer.join()


def test_members_that_are_not_final_do_not_count(store: Store, tmp_path: Path) -> None:
    label(store, 0, 1)
    trained = {"seed-0": "w0", "seed-1": "trained anew"}
    assert follow(store, tmp_path / "job", trained=lambda: trained).present("s", 0, 0) == {"seed-0": "w0"}


def test_waiting_ends_at_the_deadline_or_when_the_run_is_stopped(store: Store, tmp_path: Path) -> None:
    label(store, 0)
    with pytest.raises(RunFailure, match=r"1 of 4 members have labelled s, view 0, and epoch 9 waits for 4; none came"):
        follow(store, tmp_path / "job", deadline=0.05).present("s", 0, 9)
    with pytest.raises(Stopped):
        follow(store, tmp_path / "job", quorum=2, stopped=lambda: True).present("s", 0, 0)


def test_ranks_that_look_at_different_moments_agree(store: Store, tmp_path: Path) -> None:
    """Both look, then both write down what they saw: the first one counts."""
    label(store, 0)
    slow, quick = follow(store, tmp_path / "job"), follow(Store.open(store.name), tmp_path / "job")
    create = module.Folder.create

    def late(folder, path, payload) -> bool:
        module.Folder.create = create
        label(store, 1)
        assert len(quick.present("s", 0, 0)) == 2
        return create(folder, path, payload)

    module.Folder.create = late
    try:
        assert len(slow.present("s", 0, 0)) == 2
    finally:
        module.Folder.create = create


def test_heads_of_different_numbers_of_members_fit_into_one_batch(tmp_path: Path) -> None:
    info = StoreInfo(dataset="d", classes=5, codec={"name": "topk", "k": 2, "temperatures": [2.0]})
    store = Store.create(tmp_path / "topk", info)
    label(store, 0)
    label(store, 0, 1, 2, 3, shard="t")
    targets = Targets(store, 2.0, live=follow(store, tmp_path / "job"), weights={"seed-1": 3.0})
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for order in (("s", "t"), ("t", "s")):
        parts = [targets.shard(shard, KEYS) for shard in order]
        both = {name: columns.stack([part[name] for part in parts]) for name in parts[0]}
        assert both["p"].shape[1] == 4
        apart = [objectives.soft(z, part, 2.0) for part in parts]
        assert torch.allclose(objectives.soft(torch.cat([z, z]), both, 2.0), sum(apart) / 2)
    alone = Targets(store, 2.0, ["seed-0"]).shard("s", KEYS)
    assert torch.allclose(objectives.soft(z, alone, 2.0), objectives.soft(z, targets.shard("s", KEYS), 2.0))


def test_members_that_still_train_are_news(store: Store, tmp_path: Path) -> None:
    steps = iter(range(10**6))
    writer = threading.Timer(0.4, label, (Store.open(store.name), 0))
    writer.start()
    following = follow(store, tmp_path / "job", deadline=0.1, news=lambda: next(steps))
    assert following.present("s", 0, 0) == {"seed-0": "w0"}
    writer.join()

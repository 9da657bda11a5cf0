"""The store: whole blocks or none, once a slot, of the right dataset."""

import json
import os
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.ensemble.fusion import mean_probability
from kdscale.ensemble.targets import Targets
from kdscale.errors import RunFailure, UserError
from kdscale.logits import fsck
from kdscale.logits.export import to_parquet
from kdscale.logits.producer import label_shard
from kdscale.logits.reader import member_rows
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import Store
from kdscale.recipe import ViewSpec

INFO = StoreInfo(dataset="d" * 64, split="train", classes=4, codec={"name": "dense", "dtype": "float16"}, views="v")
SLOT = Slot("train-000000.tar", 0, "seed-0")
KEYS = ["a", "b", "c"]
Z = np.array([[1, 2, 3, 4], [0.5, -1, 8, 0], [4, 3, 2, 1]], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", INFO)


def test_what_is_committed_reads_back(store: Store) -> None:
    record = store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    block = store.read(SLOT, "checkpoint")
    assert block.keys == KEYS
    assert (block.logits == Z).all()
    assert (record.rows, record.view, record.member, record.temperatures) == (3, 0, "seed-0", None)


def test_plain_arrow_reads_a_block(store: Store) -> None:
    record = store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    table = pa.ipc.open_file(pa.memory_map(str(Path(store.name) / record.file))).read_all()
    assert table.column("key").to_pylist() == KEYS
    assert json.loads(table.schema.metadata[b"kdscale"])["checkpoint"] == "checkpoint"


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "dense", "dtype": "float16"},
        {"name": "topk", "k": 2, "temperatures": [1.0]},
        {"name": "sampled", "draws": 4, "temperature": 1.0},
    ],
    ids=lambda codec: codec["name"],
)
def test_pandas_and_polars_read_a_block(tmp_path: Path, codec: dict) -> None:
    store = Store.create(tmp_path, INFO.model_copy(update={"codec": codec}))
    path = tmp_path / store.commit(SLOT, KEYS, Z, "checkpoint", "shard").file
    frames = [pandas.read_feather(path), polars.read_ipc(path).to_arrow().to_pandas()]
    columns = store.read(SLOT).table
    for frame in frames:
        assert list(frame.columns) == columns.column_names
        for name in columns.column_names:
            assert [list(row) for row in frame[name]] == [list(row) for row in columns.column(name).to_pylist()]
    store.commits.compact(at_least=1)
    log = pandas.read_feather(tmp_path / "log" / "00000001.arrow")
    assert log[["rows", "view"]].values.tolist() == [[3, 0]]


def test_the_same_block_twice_is_harmless_and_another_is_refused(store: Store) -> None:
    first = store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    assert store.commit(SLOT, KEYS, Z, "checkpoint", "shard") == first
    with pytest.raises(RunFailure, match=f"already committed with checksum {first.checksum}"):
        store.commit(SLOT, KEYS, Z + 1, "other", "shard")
    assert (store.read(SLOT).logits == Z).all()


def test_shards_of_one_base_name_have_slots_of_their_own(store: Store) -> None:
    slots = [
        Slot(name, 0, "seed-0") for name in ("/a/test-0.tar", "/b/test-0.tar", "http://c/test-0.tar", "test-0.tar")
    ]
    for number, slot in enumerate(slots):
        store.commit(slot, KEYS, Z + number, "checkpoint", "shard")
    for number, slot in enumerate(slots):
        assert (store.read(slot).logits == Z + number).all()


def test_a_retracted_slot_takes_another_block(store: Store) -> None:
    store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    store.retract(SLOT)
    assert store.record(SLOT) is None
    store.commit(SLOT, KEYS, Z + 1, "retrained", "shard")
    assert (store.read(SLOT, "retrained").logits == Z + 1).all()


def test_nothing_is_visible_before_the_commit(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    assert store.record(SLOT) is None
    monkeypatch.undo()
    store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    assert (store.read(SLOT).logits == Z).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_with_member_shard_and_key(store: Store, value: float) -> None:
    bad = Z.copy()
    bad[1, 2] = value
    match = (
        r"member seed-0: sample b in train-000000.tar has a logit of -inf; give log-probabilities a floor"
        if value == -np.inf
        else r"member seed-0: its logits of sample b in train-000000.tar, view 0, are not finite"
    )
    with pytest.raises(RunFailure, match=match):
        store.commit(SLOT, KEYS, bad, "checkpoint", "shard")
    assert store.record(SLOT) is None


def test_damage_is_found(store: Store) -> None:
    record = store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    path = Path(store.name) / record.file
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)
    with pytest.raises(UserError, match="the block is damaged"):
        store.read(SLOT)
    path.write_bytes(payload[:-10])
    with pytest.raises(UserError, match="the block is damaged"):
        store.read(SLOT)
    path.unlink()
    with pytest.raises(UserError, match="the block is missing"):
        store.read(SLOT)


def test_other_weights_are_refused(store: Store) -> None:
    store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    with pytest.raises(UserError, match="made by other weights of seed-0"):
        store.read(SLOT, "retrained")


def test_a_store_of_another_dataset_or_split_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="made from another dataset"):
        Store.open(Path(store.name), "e" * 64, "train")
    with pytest.raises(UserError, match=r"made from another split \(train, not test\)"):
        Store.open(Path(store.name), INFO.dataset, "test")
    with pytest.raises(UserError, match="made from another codec"):
        Store.create(Path(store.name), INFO.model_copy(update={"codec": {"name": "dense", "dtype": "float32"}}))
    with pytest.raises(UserError, match="there is no logit store"):
        Store.open(Path(store.name) / "none", INFO.dataset, "train")
    assert Store.create(Path(store.name), INFO).info == INFO


def test_a_garbled_commit_record_is_named(store: Store) -> None:
    store.commit(SLOT, KEYS, Z, "checkpoint", "shard")
    path = next((Path(store.name) / "commits").rglob("*.json"))
    path.write_text(json.dumps({"rows": 3}))
    with pytest.raises(UserError, match=f"{path.name}: not a commit record"):
        store.read(SLOT)


def test_float16_refuses_what_it_cannot_hold(store: Store) -> None:
    with pytest.raises(RunFailure, match=r"does not fit float16; set logits.dtype to bfloat16 or float32"):
        store.commit(SLOT, KEYS, Z * 30000, "checkpoint", "shard")


@pytest.fixture
def labelled(dataset_folder: Path, tmp_path: Path) -> tuple[Dataset, Store, dict[str, str]]:
    dataset = Dataset(dataset_folder, "train")
    info = INFO.model_copy(update={"dataset": dataset.manifest.fingerprint, "classes": 3})
    store = Store.create(tmp_path / "labels", info)
    pixels = Pixels(dataset.manifest, True, ViewSpec(jitter=1), 0, torch.device("cpu"))
    for m in range(2):
        weights = torch.randn(36, 3, generator=torch.Generator().manual_seed(m))
        for number in range(len(dataset.shards)):
            for view in (0, 1):
                predict = lambda x, w=weights: x.flatten(1) @ w  # noqa: E731
                label_shard(store, dataset, number, view, f"seed-{m}", f"c{m}", predict, pixels, batch_size=7)
    return dataset, store, {"seed-0": "c0", "seed-1": "c1"}


def test_targets_are_joined_by_key(labelled) -> None:
    dataset, store, members = labelled
    shard, decoded = dataset.shards[1], dataset.decoded(1)

    def logits_of(view: int, keys: list[str]) -> np.ndarray:
        slots = [(Slot(shard.name, view, member), checkpoint) for member, checkpoint in members.items()]
        return np.stack([member_rows(store, slot, checkpoint, keys, 1.0).values for slot, checkpoint in slots])

    straight, shuffled = logits_of(0, decoded.keys), logits_of(0, decoded.keys[::-1])
    assert (shuffled == straight[:, ::-1]).all()
    with pytest.raises(UserError, match=r"has no row for the sample stranger of train-000001.tar"):
        logits_of(0, ["stranger"])
    targets = Targets(store, 2.0, members, keep_bytes=200)
    for view in (0, 1, 0):
        expected = mean_probability(torch.from_numpy(logits_of(view, decoded.keys)), 2.0, torch.tensor([0.5, 0.5]))
        assert torch.equal(targets.shard(shard.name, decoded.keys, view)["p"], expected)
    views = [targets.shard(shard.name, decoded.keys, view)["p"] for view in (0, 1)]
    assert not torch.equal(*views)


def test_labelling_again_runs_nothing(labelled) -> None:
    dataset, store, _ = labelled

    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    pixels = Pixels(dataset.manifest, True, ViewSpec(), 0, torch.device("cpu"))
    assert label_shard(store, dataset, 0, 0, "seed-0", "c0", never, pixels).rows == 30


def test_fsck_names_what_is_wrong_and_quarantine_empties_the_slot(labelled) -> None:
    dataset, store, members = labelled
    slots = [Slot(shard.name, view, member) for member in members for shard in dataset.shards for view in (0, 1)]
    assert list(fsck.faults(store, dataset, slots)) == []
    assert fsck.unused(store, slots) == {}
    leftovers = [Path(store.name) / "blocks" / "seed-0" / "view-000" / name for name in ("left-over.arrow", ".tmp-x")]
    for leftover in leftovers:
        leftover.write_bytes(b"x")
    assert fsck.unused(store, slots) == {}  # a writer may be about to commit them
    for leftover in leftovers:
        os.utime(leftover, (1, 1))
    assert list(fsck.unused(store, slots).values()) == [1, 1]
    gone = [slot for slot in slots if slot.member == "seed-1"]
    assert len(fsck.unused(store, [slot for slot in slots if slot not in gone])) == 2 + len(gone)
    hurt, swapped, lost = slots[0], slots[3], slots[5]
    path = Path(store.name) / store.record(hurt).file
    path.write_bytes(path.read_bytes()[:-1])
    block = store.read(swapped)
    store.retract(swapped)
    sha = dataset.shards[1].sha256
    store.commit(swapped, block.keys[::-1], block.logits.astype(np.float32), "c0", sha)
    store.retract(lost)
    found = {fault.slot: fault for fault in fsck.faults(store, dataset, slots)}
    assert found.keys() == {hurt, swapped, lost}
    assert "damaged" in found[hurt].what
    assert found[swapped].what == "the block's keys are not the shard's"
    assert found[lost].missing
    fsck.quarantine(store, list(found))
    assert all(store.record(slot) is None for slot in found)
    assert len(list((Path(store.name) / fsck.QUARANTINE).rglob("*.json"))) == 2


def test_a_damaged_log_is_made_again_from_the_blocks(labelled) -> None:
    _, store, _ = labelled
    before = list(store.listing())
    assert store.commits.compact(at_least=1) == len(before)
    assert fsck.rebuild_log(store.name) == 0
    log = next(Path(store.name, "log").glob("*.arrow"))
    log.write_bytes(log.read_bytes()[:-100])
    lost = before.pop(3)
    block = Path(store.name) / lost.file
    block.write_bytes(block.read_bytes()[:-1])
    with pytest.raises(UserError, match="the commit log is damaged"):
        Store.open(store.name)
    assert fsck.rebuild_log(store.name) == len(before)
    found = sorted(Store.open(store.name).listing(), key=lambda record: record.file)
    assert found == sorted(before, key=lambda record: record.file)
    assert list(Path(store.name, ".quarantine", "log").iterdir())


def test_shards_of_any_name_have_slots_of_their_own(tmp_path: Path) -> None:
    store = Store.create(tmp_path, INFO)
    names = [
        "part.0",
        "part.1",
        "a.tar",
        "a.npz",
        "b/a.tar",
        "c/a.tar",
        "ä.tar",
        "ö.tar",
        "x" * 300,
        "x" * 301,
        "..",
        "",
    ]
    for n, name in enumerate(names):
        store.commit(Slot(name, 0, "m"), KEYS, Z + n, "w")
    for n, name in enumerate(names):
        assert np.allclose(store.read(Slot(name, 0, "m")).logits, Z + n)
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*.arrow"))
    for bad in ("../evil", "a/b", "", "x" * 101, "nul\0"):
        with pytest.raises(UserError, match="names of members begin with a letter or digit"):
            Slot("a.tar", 0, bad)


def test_prune_frees_what_is_not_needed_and_nothing_else(labelled) -> None:
    dataset, store, _ = labelled
    keep = [Slot(shard.name, 0, "seed-0") for shard in dataset.shards]
    size = sum(fsck.unused(store, keep).values())
    assert fsck.prune(store, keep) == (9, size)
    assert fsck.unused(store, keep) == {}
    assert {record.slot for record in store.listing()} == set(keep)
    assert list(fsck.faults(store, dataset, keep)) == []


def test_a_store_as_parquet(labelled, tmp_path: Path) -> None:
    dataset, store, members = labelled
    slots = [Slot(shard.name, 0, member) for member in members for shard in dataset.shards]
    out = tmp_path / "out.parquet"
    assert to_parquet(store, slots, out) == 2 * 75
    table = pq.read_table(out)
    assert table.column_names == ["key", "shard", "view", "member", "logits"]
    one = table.filter(pc.and_(pc.equal(table["member"], "seed-1"), pc.equal(table["shard"], "train-000001.tar")))
    block = store.read(Slot("train-000001.tar", 0, "seed-1"))
    assert one["key"].to_pylist() == block.keys
    assert np.array_equal(np.array(one["logits"].to_pylist(), np.float32), block.logits.astype(np.float32))
    with pytest.raises(UserError, match="nothing to export"):
        to_parquet(store, [], tmp_path / "none.parquet")
    store.retract(slots[2])
    with pytest.raises(UserError, match="no logits of"):
        to_parquet(store, slots, tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()

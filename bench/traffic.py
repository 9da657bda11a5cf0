"""How fast blocks are written, read and joined, against the plain file and the plain stream."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from figures import Figure, Options, ratio, side_by_side

from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.importing import import_dataset
from kdscale.data.order import Order
from kdscale.ensemble.targets import Targets
from kdscale.logits.commits import Listing, table_of
from kdscale.logits.records import Record, Slot, StoreInfo, block_path
from kdscale.logits.store import Store
from kdscale.recipe import Data, ViewSpec

CLASSES = 1000


def writing_and_reading(options: Options) -> list[Figure]:
    """dense float16 blocks of 1,000 classes against the same bytes as a plain file, both flushed to the disk"""
    found = []
    rows, times = (8192, 12) if options.quick else (16384, 15)
    torch.set_num_threads(1)
    z = np.random.default_rng(0).normal(size=(rows, CLASSES)).astype(np.float32)
    keys = [f"train-{row:08d}" for row in range(rows)]
    half = torch.from_numpy(z).half().numpy()
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name)
        store = Store.create(folder / "store", StoreInfo(dataset="bench", classes=CLASSES))
        numbers = iter(range(10**9))

        def block() -> None:
            store.commit(Slot(f"s-{next(numbers)}", 0, "m"), keys, z, "w")

        def plain_file() -> None:
            with open(folder / f"raw-{next(numbers)}", "wb") as file:
                file.write(half.data)
                file.flush()
                os.fsync(file.fileno())

        ours, raw = side_by_side([block, plain_file], times)
        size = half.nbytes / 1e9
        found.append(Figure("write: a raw file", size / statistics.median(raw), "GB/s"))
        found.append(Figure("write: blocks, from float32 logits to the commit", size / statistics.median(ours), "GB/s"))
        found.append(Figure("write: blocks relative to raw files", ratio(raw, ours), "x", ">= 0.7"))

        np.save(folder / "plain.npy", half)
        slot = Slot("s-0", 0, "m")
        reader = Store.open(folder / "store")
        out = np.empty_like(half)

        def mapped_block() -> None:
            np.copyto(out, reader.read(slot).logits)

        def mapped_array() -> None:
            np.copyto(out, np.load(folder / "plain.npy", mmap_mode="r"))

        ours, plain = side_by_side([mapped_block, mapped_array], 3 * times)
        found.append(Figure("read: a mapped plain array", size / statistics.median(plain), "GB/s"))
        found.append(Figure("read: a mapped block, verified", size / statistics.median(ours), "GB/s"))
        found.append(Figure("read: blocks relative to a plain array", ratio(plain, ours), "x", ">= 0.5"))
    return found


def joining(options: Options) -> list[Figure]:
    """batches with soft targets joined to them, against the same batches without"""
    found = []
    times, members, epochs = (2, 2, 1) if options.quick else (5, 5, 3)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        dataset = _pictures(Path(name) / "data", 4000 if options.quick else 20000)
        store = Store.create(Path(name) / "store", StoreInfo(dataset=dataset.manifest.fingerprint, classes=10))
        random = np.random.default_rng(0)
        for number, shard in enumerate(dataset.shards):
            keys = dataset.decoded(number).keys
            for member in range(members):
                z = random.normal(size=(shard.samples, 10)).astype(np.float32)
                store.commit(Slot(shard.name, 0, f"seed-{member}"), keys, z, "w", shard.sha256)
        order = Order(dataset.sizes, 0, 128, 8, 8192)
        pixels = Pixels(dataset.manifest, True, ViewSpec(), 0, torch.device("cpu"))

        def stream(join: bool) -> None:
            """Epochs of a student's data, decoding and all, as its process sees them."""
            fresh = Dataset(dataset.folder, "train", dataset.manifest)
            targets = Targets(store, 4.0)

            def joined(number, decoded, view, epoch):
                return targets.shard(fresh.shards[number].name, decoded.keys, view, epoch)

            batches = Batches(fresh, order, pixels, lambda epoch: 0, range(8), joined if join else None)
            for step in range(order.steps(epochs)):
                batches(step)

        with_targets, without = side_by_side([lambda: stream(True), lambda: stream(False)], times)
        rate = epochs * sum(dataset.sizes)
        found.append(Figure("join: the stream alone", rate / statistics.median(without), "samples/s"))
        found.append(Figure("join: with the mean of all members", rate / statistics.median(with_targets), "samples/s"))
        found.append(Figure("join: seconds added", 100 * (ratio(with_targets, without) - 1), "%", "<= 5"))
    return found


def scale(options: Options) -> list[Figure]:
    """opening and planning a store of very many blocks, from its compacted commit log, in a process of its own"""
    found = []
    shards, members = (2000, 3) if options.quick else (100_000, 10)
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        _make_log(Path(name), shards, members)
        (log,) = (Path(name) / "log").glob("*.arrow")
        found.append(Figure("scale: records in the log", shards * members, "blocks"))
        found.append(Figure("scale: bytes of the log", log.stat().st_size / 1e6, "MB"))
        seen = _in_a_process(name, shards, members)
        found.append(Figure("scale: opening the store", seen["open"], "s", "<= 2"))
        found.append(Figure("scale: what is missing, of every member and shard", seen["plan"], "s"))
        found.append(Figure("scale: one record looked up", 1e6 * seen["find"], "us"))
        found.append(Figure("scale: memory that the open store takes", seen["memory"], "MB", "<= 500"))
    return found


def _make_log(folder: Path, shards: int, members: int) -> None:
    store = Store.create(folder, StoreInfo(dataset="bench", classes=CLASSES))
    tables = []
    for member in range(members):
        maker = store._maker(f"seed-{member}", f"{member:064x}", store.codec)
        records = []
        for number in range(shards):
            slot = Slot(f"train-{number:06d}.tar", 0, maker.member)
            checksum = f"{member * shards + number:032x}"
            facts = {"shard": slot.shard, "shard_sha256": f"{number:064x}", "view": 0, "rows": 1000, "bytes": 2_000_000}
            records.append(
                Record.model_construct(**dict(maker), **facts, checksum=checksum, file=block_path(slot, checksum))
            )
        tables.append(table_of(records))
    store.commits.replace(Listing(pa.concat_tables(tables)))


def _in_a_process(folder: str, shards: int, members: int) -> dict[str, float]:
    program = f"""
import json, os, time, psutil
from kdscale.logits.records import Slot
from kdscale.logits.store import Store
memory = lambda: psutil.Process().memory_info().rss / 1e6
before, start = memory(), time.perf_counter()
store = Store.open({folder!r})
opened = time.perf_counter()
listing = store.listing()
names = [f"train-{{n:06d}}.tar" for n in range({shards})]
missing = sum(int((~listing.holds(names, 0, f"seed-{{m}}", f"{{m:064x}}")).sum()) for m in range({members}))
planned = time.perf_counter()
assert missing == 0 and len(listing) == {shards * members}
for n in range(0, {shards}, {max(1, shards // 1000)}):
    assert store.record(Slot(names[n], 0, "seed-1")) is not None
found = (time.perf_counter() - planned) / len(range(0, {shards}, {max(1, shards // 1000)}))
print(json.dumps({{"open": opened - start, "plan": planned - opened, "find": found, "memory": memory() - before}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


def _pictures(folder: Path, count: int) -> Dataset:
    """A dataset of 28x28 pictures."""
    random = np.random.default_rng(0)
    source = folder.parent / "pictures.npz"
    y = random.integers(0, 10, count)
    np.savez(source, x=random.integers(0, 256, (count, 28, 28)).astype(np.uint8), y=y)
    import_dataset(Data(source="npz", path=str(source), test=100, validation=0), 0, folder)
    return Dataset(folder, "train")

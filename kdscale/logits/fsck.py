"""The store's health: every slot looked at, bad blocks set aside so that they alone are made again.

What is wrong is found without the members: a record without a block, a block whose bytes differ from its checksum, a
block of another version of the shard, keys that are not the shard's. `kdscale.pipeline.health` adds what needs them.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdscale.data.dataset import Dataset
from kdscale.errors import UserError
from kdscale.logits.store import Slot, Store

QUARANTINE = ".quarantine"


@dataclass(frozen=True)
class Fault:
    """One slot that cannot be read as it should."""

    slot: Slot
    what: str
    """A sentence."""
    missing: bool = False
    """Nothing was committed there; there is nothing to set aside."""


def faults(store: Store, dataset: Dataset, slots: Iterable[Slot]) -> Iterator[Fault]:
    """The slots that are missing or damaged, in order. Reads every byte of the store and the keys of the data."""
    numbers = {shard.name: number for number, shard in enumerate(dataset.shards)}
    for slot in slots:
        try:
            record = store.record(slot)
            if record is None:
                yield Fault(slot, "no block is committed", missing=True)
                continue
            shard = dataset.shards[numbers[slot.shard]]
            if record.shard_sha256 != shard.sha256:
                yield Fault(slot, "the block was made from another version of the shard")
                continue
            keys = store.read(slot).keys
            if keys != dataset.decoded(numbers[slot.shard]).keys:
                yield Fault(slot, "the block's keys are not the shard's")
        except UserError as error:
            yield Fault(slot, str(error))


def quarantine(store: Store, fault: Fault) -> list[Path]:
    """Move a bad slot's block and record to STORE/.quarantine, which empties the slot; where they lie now."""
    moved = []
    record_path = store.commit_path(fault.slot)
    blocks = sorted((store.folder / "blocks").glob(f"{fault.slot.path}-*.arrow"))
    for path in (record_path, *blocks):  # the record first: from then on nobody believes the block
        if path.exists():
            aside = store.folder / QUARANTINE / path.relative_to(store.folder)
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, aside)
            moved.append(aside)
    return moved


def unused(store: Store, slots: Iterable[Slot]) -> list[Path]:
    """Files of the store that none of these slots needs: what killed writers left, members and views no longer asked for."""
    needed = set()
    for slot in slots:
        if (record := store.record(slot)) is not None:
            needed |= {store.commit_path(slot), store.folder / record.file}
    files = [*(store.folder / "commits").rglob("*"), *(store.folder / "blocks").rglob("*")]
    return [path for path in sorted(files) if path.is_file() and path not in needed]


def prune(paths: Iterable[Path]) -> int:
    """Delete files of a store, records before the blocks they name; the bytes freed."""
    freed = 0
    for path in sorted(paths, key=lambda path: path.suffix != ".json"):
        freed += path.stat().st_size
        path.unlink()
    return freed

"""The store's health: every slot looked at, bad blocks set aside so that they alone are made again.

What is wrong is found without the members: a record without a block, a block whose bytes differ from its checksum, a
block of another version of the shard, keys that are not the shard's. `kdscale.pipeline.health` adds what needs them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from kdscale.data.dataset import Dataset
from kdscale.errors import UserError
from kdscale.logits import blocks
from kdscale.logits.commits import Commits, DamagedLog, Listing
from kdscale.logits.places import Place, open_place
from kdscale.logits.records import Record, Slot, commit_path
from kdscale.logits.store import Store

QUARANTINE = ".quarantine"
SETTLED = 3600.0
"""Seconds after which a block that no record names, and an unfinished file, belong to a writer that is dead."""


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


def quarantine(store: Store, slots: Sequence[Slot]) -> list[str]:
    """Copy bad slots' blocks and records to STORE/.quarantine, then empty the slots; what was set aside."""
    moved = []
    of_slot: dict[str, list[str]] = {}
    for path, _ in store.place.list("blocks"):
        of_slot.setdefault(path.removeprefix("blocks/").rpartition("-")[0], []).append(path)
    for slot in slots:
        for path in (commit_path(slot), *sorted(of_slot.get(slot.path, ()))):
            try:
                store.place.write(f"{QUARANTINE}/{path}", [store.place.read(path)])
            except FileNotFoundError:
                continue
            moved.append(path)
    store.retract(*slots)  # from now on nobody believes the blocks
    for path in moved:
        store.place.delete(path)
    return moved


def rebuild_log(where: str | Path) -> int:
    """If the compacted log is damaged, set it aside and make it again from what the blocks say; how many they were.

    Blocks that are damaged, and two that claim one slot, are left out: their slots are empty and labelled again.
    """
    place = open_place(where)
    try:
        Commits(place)
    except DamagedLog:
        pass
    else:
        return 0
    claims: dict[Slot, list[Record]] = {}
    for path, _ in place.list("blocks"):
        if (record := _record_of(place, path)) is not None:
            claims.setdefault(record.slot, []).append(record)
    found = [records[0] for records in claims.values() if len(records) == 1]
    for path, _ in list(place.list("log")):
        place.write(f"{QUARANTINE}/{path}", [place.read(path)])
        place.delete(path)
    Commits(place).replace(Listing().joined(found))
    return len(found)


def unused(store: Store, slots: Iterable[Slot], settled: float = SETTLED) -> dict[str, int]:
    """Bytes of what none of these slots names: blocks of members no longer asked for, and what killed writers left.

    A block that no record names counts only once it is old: its writer may be about to commit it.
    """
    found = dict(store.place.list("blocks"))  # before the records: what is committed from now on is not in it
    listing = store.listing()
    needed = {record.file for slot in slots if (record := listing.find(slot)) is not None}
    named = {record.file for record in listing}
    left = {p: size for p, size in found.items() if p not in needed and (p in named or _old(store, p, settled))}
    return dict(sorted((left | dict(store.place.debris(settled))).items()))


def prune(store: Store, slots: Iterable[Slot], settled: float = SETTLED) -> tuple[int, int]:
    """Empty every slot but these, and delete the blocks that they do not name; (files, bytes) freed."""
    keep = set(slots)
    paths = unused(store, keep, settled)
    listing = store.listing()
    named = {record.file for record in listing}
    for path in paths.keys() - named:  # first what needs no writing: the disk may be full
        store.place.delete(path)
    store.retract(*(record.slot for record in listing if record.slot not in keep))
    for path in paths.keys() & named:
        store.place.delete(path)
    return len(paths), sum(paths.values())


def _old(store: Store, path: str, settled: float) -> bool:
    try:
        return store.place.age(path) > settled
    except FileNotFoundError:
        return False


def _record_of(place: Place, path: str) -> Record | None:
    """The record that a block's own metadata and bytes make, if its name holds their checksum."""
    try:
        payload = place.read(path)
        digest = blocks.checksum([payload])
        if not path.endswith(f"-{digest[:12]}.arrow"):
            return None
        facts = json.loads(pa.ipc.open_file(payload).schema.metadata[blocks.FACTS.encode()])
        return Record(**facts, bytes=payload.size, checksum=digest, file=path)
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError, ValueError, ValidationError):
        return None

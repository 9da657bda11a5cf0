"""The store's health: every slot looked at, bad blocks set aside so that they alone are made again.

What is wrong is found without the members: a record without a block, a block whose bytes differ from its checksum, a
block of another version of the shard, keys that are not the shard's. `kdscale.pipeline.health` adds what needs them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdscale.data.dataset import Dataset
from kdscale.errors import UserError
from kdscale.logits.records import Slot, commit_path
from kdscale.logits.store import Store

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


def quarantine(store: Store, slots: Sequence[Slot]) -> list[str]:
    """Copy bad slots' blocks and records to STORE/.quarantine, then empty the slots; what was set aside."""
    moved = []
    blocks: dict[str, list[str]] = {}
    for path, _ in store.place.list("blocks"):
        blocks.setdefault(path[len("blocks/") : path.rindex("-")], []).append(path)
    for slot in slots:
        for path in (commit_path(slot), *sorted(blocks.get(slot.path, ()))):
            try:
                store.place.write(f"{QUARANTINE}/{path}", [store.place.read(path)])
            except FileNotFoundError:
                continue
            moved.append(path)
    store.retract(*slots)  # from now on nobody believes the blocks
    for path in moved:
        store.place.delete(path)
    return moved


def unused(store: Store, slots: Iterable[Slot]) -> dict[str, int]:
    """Bytes of the blocks that none of these slots names: what killed writers left, members no longer asked for."""
    listing = store.listing()
    needed = {record.file for slot in slots if (record := listing.find(slot)) is not None}
    return {path: size for path, size in sorted(store.place.list("blocks")) if path not in needed}


def prune(store: Store, slots: Iterable[Slot]) -> tuple[int, int]:
    """Empty every slot but these, and delete the blocks that they do not name; (blocks, bytes) freed."""
    keep = set(slots)
    store.retract(*(record.slot for record in store.listing() if record.slot not in keep))
    paths = unused(store, keep)
    for path in paths:
        store.place.delete(path)
    return len(paths), sum(paths.values())

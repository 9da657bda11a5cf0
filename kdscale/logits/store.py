"""The store: blocks and their commit records.

A block is one Arrow IPC file, the rows of one (shard, view, member) in the shard's order with their keys. It is
written aside under a name that holds its checksum and becomes visible when its commit record is linked into place,
an act that either happens whole or not at all, and at most once for a slot:

    STORE/store.json                                  what the store is of
    STORE/blocks/MEMBER/view-000/SHARD-CHECKSUM.arrow
    STORE/commits/MEMBER/view-000/SHARD.json          the block's checksum, rows, checkpoint, codec, ...

A reader believes commit records alone, so debris of killed writers is never seen.
"""

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from kdscale import __version__
from kdscale.errors import RunFailure, UserError
from kdscale.files import read_json, write_json, written_aside
from kdscale.logits import codecs
from kdscale.logits.codecs import Codec
from kdscale.logits.rows import Logits, Sparse
from kdscale.seeds import derive, uniforms

FILE = "store.json"


@dataclass(frozen=True)
class Slot:
    """Where a block belongs."""

    shard: str
    """The shard's name in the data manifest."""
    view: int
    member: str

    @property
    def path(self) -> str:
        """Where it lies in the store; shards that are named by a path or URL get a hash of all of it."""
        base = PurePosixPath(self.shard.rsplit("/", 1)[-1]).stem
        unique = "" if "/" not in self.shard else f"-{xxhash.xxh3_64_hexdigest(self.shard.encode())[:8]}"
        return f"{self.member}/view-{self.view:03d}/{base}{unique}"


class StoreInfo(BaseModel):
    """What a store is of; written once, when it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    dataset: str
    """Fingerprint of the data manifest."""
    split: str
    classes: int
    codec: dict[str, Any]
    views: str
    """Fingerprint of how views are made and samples normalised."""


class Record(BaseModel):
    """A commit record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    dataset: str
    split: str
    shard: str
    shard_sha256: str
    view: int
    member: str
    checkpoint: str
    """sha256 of the member's weights."""
    rows: int
    codec: dict[str, Any]
    temperatures: list[float] | None = None
    """Those that the codec serves; None where logits are stored and the temperature stays open."""
    file: str
    """The block, relative to the store."""
    bytes: int
    checksum: str
    """xxh3-128 of the block file."""
    creator: str = f"kdscale {__version__}"


@dataclass(frozen=True)
class Block:
    """A block, verified and mapped into memory; decoded at a temperature when it is asked for."""

    keys: list[str]
    table: pa.Table
    codec: Codec
    classes: int

    @property
    def logits(self) -> NDArray[np.floating[Any]]:
        """(N, C), of a codec that keeps them."""
        rows = self.at(1.0)
        assert isinstance(rows, Logits)
        return rows.values

    def at(self, temperature: float) -> Logits | Sparse:
        """What the block says at a temperature.

        Raises:
            UserError: the codec does not serve it.
        """
        return self.codec.decode(self.table, self.classes, temperature)


class Store:
    """A logit store on a filesystem that all writers and readers share."""

    def __init__(self, folder: Path, info: StoreInfo):
        self.folder, self.info = folder, info
        self.codec = codecs.from_description(info.codec)

    @staticmethod
    def create(folder: Path, info: StoreInfo) -> "Store":
        """Make a store, or open the one that is there if it is of the same.

        Raises:
            UserError: the store there is of another dataset, split or codec.
        """
        if (there := _read_info(folder)) is None:
            write_json(folder / FILE, info.model_dump())
        elif there != info:
            raise UserError(f"{folder}: {_mismatch(there, info)}; use another folder or the dataset it was made from")
        return Store(folder, info)

    @staticmethod
    def open(folder: Path, dataset: str, split: str) -> "Store":
        """Open a store for a dataset's split.

        Raises:
            UserError: there is no store, it is unreadable, or it was made from another dataset or split.
        """
        info = _read_info(folder)
        if info is None:
            raise UserError(f"{folder}: there is no logit store; make it with kdscale logits")
        wanted = info.model_copy(update={"dataset": dataset, "split": split})
        if info != wanted:
            raise UserError(f"{folder}: {_mismatch(info, wanted)}; use another store or the dataset it was made from")
        return Store(folder, info)

    def record(self, slot: Slot) -> Record | None:
        """The slot's commit record, or None while it is not committed."""
        path = self.commit_path(slot)
        try:
            tree = read_json(path)
            return None if tree is None else Record.model_validate(tree)
        except (ValueError, ValidationError) as error:
            raise UserError(f"{path}: not a commit record ({error}); remove it and run kdscale logits again") from None

    def commit(
        self, slot: Slot, keys: list[str], logits: NDArray[np.float32], checkpoint: str, shard_sha256: str
    ) -> Record:
        """Write a block and make it visible. The same block twice is harmless.

        Args:
            keys: the shard's keys, in its order.
            logits: (N, C) float32.
            checkpoint: sha256 of the member's weights.

        Raises:
            RunFailure: logits are not finite, or another block is already committed in the slot.
        """
        self._check_rows(slot, keys, logits)
        columns = self.codec.encode(logits, self.draws(slot, keys))
        table = pa.table({"key": pa.array(keys, pa.string()), **columns})
        facts = {
            "dataset": self.info.dataset,
            "split": self.info.split,
            "shard": slot.shard,
            "shard_sha256": shard_sha256,
            "view": slot.view,
            "member": slot.member,
            "checkpoint": checkpoint,
            "codec": self.info.codec,
        }
        table = table.replace_schema_metadata({f"kdscale.{name}": str(value) for name, value in facts.items()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        payload = sink.getvalue()
        checksum = xxhash.xxh3_128_hexdigest(payload)
        file = f"blocks/{slot.path}-{checksum[:12]}.arrow"
        with written_aside(self.folder / file) as temporary:
            temporary.write_bytes(payload)
        record = Record(
            **facts,
            temperatures=self.codec.temperatures,
            rows=len(keys),
            file=file,
            bytes=len(payload),
            checksum=checksum,
        )
        self._link(slot, record)
        return record

    def retract(self, slot: Slot) -> None:
        """Make a slot empty again, for a member that was trained anew."""
        self.commit_path(slot).unlink(missing_ok=True)

    def read(self, slot: Slot, checkpoint: str | None = None) -> Block:
        """A committed block, verified and mapped.

        Raises:
            UserError: it is not committed, is damaged, or was made by other weights than `checkpoint`.
        """
        record = self.record(slot)
        if record is None:
            raise UserError(f"{self.folder}: no logits of {slot.path}; make them with kdscale logits")
        if checkpoint is not None and record.checkpoint != checkpoint:
            raise UserError(
                f"{self.folder}: the logits of {slot.path} were made by other weights of {slot.member}; "
                f"remove {self.commit_path(slot)} and run kdscale logits again"
            )
        path = self.folder / record.file
        mend = f"remove {self.commit_path(slot)} and run kdscale logits again"
        try:
            source = pa.memory_map(str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: the block is missing; {mend}") from None
        buffer = source.read_buffer()
        if buffer.size != record.bytes or xxhash.xxh3_128_hexdigest(buffer) != record.checksum:
            raise UserError(f"{path}: the block is damaged (its checksum differs from the commit record); {mend}")
        table = pa.ipc.open_file(buffer).read_all()
        return Block(table.column("key").to_pylist(), table, self.codec, self.info.classes)

    def draws(self, slot: Slot, keys: list[str]) -> NDArray[np.float64]:
        """(N,) all the chance that a codec gets for these rows: functions of member, view and key alone."""
        ids = np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))
        return uniforms(derive(0, "draws", slot.member), ids, np.full(len(keys), slot.view), 1)[:, 0]

    def _check_rows(self, slot: Slot, keys: list[str], logits: NDArray[np.float32]) -> None:
        assert logits.shape == (len(keys), self.info.classes), (logits.shape, len(keys), self.info.classes)
        bad = np.flatnonzero(~np.isfinite(logits).all(1))
        if len(bad):
            raise RunFailure(
                f"member {slot.member}: its logits of sample {keys[bad[0]]} in {slot.shard}, view {slot.view}, are not "
                f"finite ({len(bad)} such rows); the member is broken: remove it and train it with a lower learning rate"
            )

    def _link(self, slot: Slot, record: Record) -> None:
        """Put the record in its place unless one is there; two different blocks for a slot are refused."""
        path = self.commit_path(slot)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            write_json(temporary, record.model_dump())
            os.link(temporary, path)
        except FileExistsError:
            there = self.record(slot)
            assert there is not None
            if there.checksum != record.checksum:
                raise RunFailure(
                    f"{self.folder}: {slot.path} is already committed with checksum {there.checksum} and now came "
                    f"{record.checksum}; one of the two was made by other weights or data: "
                    f"remove {path} if it is the first"
                ) from None
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()

    def commit_path(self, slot: Slot) -> Path:
        """Where the slot's commit record lies."""
        return self.folder / "commits" / f"{slot.path}.json"


def _read_info(folder: Path) -> StoreInfo | None:
    try:
        tree: Any = read_json(folder / FILE)
        return None if tree is None else StoreInfo.model_validate(tree)
    except (ValueError, ValidationError):
        raise UserError(f"{folder / FILE}: not a logit store's description; restore it or remove the folder") from None


def _mismatch(there: StoreInfo, wanted: StoreInfo) -> str:
    name, value = next(
        (n, getattr(there, n)) for n in StoreInfo.model_fields if getattr(there, n) != getattr(wanted, n)
    )
    other = getattr(wanted, name)
    short, wanted_short = (f"{v[:12]}..." if isinstance(v, str) and len(v) > 16 else v for v in (value, other))
    return f"the logit store was made from another {name} ({short}, not {wanted_short})"

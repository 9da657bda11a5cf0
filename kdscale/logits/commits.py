"""Commit records: single files as they come in, and a compacted log of all that came before.

A record appears as one small file that can be made only once. Compaction gathers such files into the next generation of
the log, one Arrow file in columns, and then deletes them; so a store of a million blocks opens as one mapped file.

    STORE/commits/MEMBER/view-000/SHARD.json    a record that is not compacted yet
    STORE/log/00000007.arrow                    all others; the highest number counts
    STORE/log/00000007-CHECKSUM                 an empty file: the xxh3-128 that the log's bytes must have

A generation is made by the same act as a record, so of two that compact at once one gives up. A record is deleted only
once it is in the generation that counts, and each generation holds all that the one before it held; hence none is lost.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from kdscale.errors import UserError
from kdscale.logits.blocks import checksum
from kdscale.logits.places import Place
from kdscale.logits.records import Maker, Record, Slot, block_path, commit_path

FOLDER, LOG = "commits", "log"
LEAST = 512
"""Single records below which no compaction pays."""
READERS = 16
"""Single records that are read at once: object stores take their time for each."""
_SCHEMA = pa.schema(
    [
        ("maker", pa.dictionary(pa.int32(), pa.string())),
        ("view", pa.int16()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("shard_sha256", pa.dictionary(pa.int32(), pa.string())),
        ("rows", pa.int32()),
        ("bytes", pa.int64()),
        ("checksum", pa.binary(16)),
    ]
)


_GENERATION = re.compile(r"log/(\d{8})(?:\.arrow|-([0-9a-f]{32}))")


class DamagedLog(UserError):
    """The compacted log cannot be believed; the blocks say what was in it."""


class Listing:
    """Commit records in columns, ordered for search: a slot is found by bisection, a member's shards at once."""

    def __init__(self, table: pa.Table | None = None):
        self.table = _SCHEMA.empty_table() if table is None else table.combine_chunks()
        columns = {name: self.table.column(name) for name in self.table.column_names}
        dictionaries = {name: _dictionary(columns[name]) for name in ("maker", "shard", "shard_sha256")}
        self.makers = [Maker.model_validate_json(text) for text in dictionaries["maker"][1]]
        self._maker, self._shard_code = dictionaries["maker"][0], dictionaries["shard"][0]
        self._shards: list[str] = dictionaries["shard"][1]
        self._sha256 = dictionaries["shard_sha256"]
        self._shard_codes = {name: code for code, name in enumerate(self._shards)}
        names = list(dict.fromkeys(maker.member for maker in self.makers))
        self._member_codes = {name: code for code, name in enumerate(names)}
        members = np.array([self._member_codes[maker.member] for maker in self.makers], np.int64)
        self._view = columns["view"].to_numpy()
        self._views = int(self._view.max(initial=-1)) + 1
        place = (members[self._maker] * self._views + self._view) * len(self._shards) + self._shard_code
        self._order: NDArray[np.int64] = np.argsort(place, kind="stable")
        self._places: NDArray[np.int64] = place[self._order]

    def __len__(self) -> int:
        return len(self.table)

    def find(self, slot: Slot) -> Record | None:
        """The slot's record."""
        rows = self._rows([slot.shard], slot.view, slot.member)
        return None if rows[0] < 0 else self._record(int(rows[0]))

    def __iter__(self) -> Iterator[Record]:
        """Every record, by member, view and shard."""
        return (self._record(int(row)) for row in self._order)

    def holds(self, shards: Sequence[str], view: int, member: str, checkpoint: str | None = None) -> NDArray[np.bool_]:
        """(len(shards),) whether a block of these weights is committed for each."""
        rows = self._rows(shards, view, member)
        there = rows >= 0
        if checkpoint is not None and there.any():
            right = np.array([maker.checkpoint == checkpoint for maker in self.makers], np.bool_)
            there[there] = right[self._maker[rows[there]]]
        return there

    @property
    def members(self) -> dict[str, Maker]:
        """Who has blocks here; of a member whose weights changed, the maker of most."""
        counts = np.bincount(self._maker, minlength=len(self.makers))
        return {
            self.makers[code].member: self.makers[code] for code in np.argsort(counts, kind="stable") if counts[code]
        }

    def shards(self) -> list[str]:
        """Names of the shards that any block is of, in order."""
        return sorted(self._shards[code] for code in np.unique(self._shard_code))

    @property
    def views(self) -> int:
        """How many views any block is of."""
        return len(np.unique(self._view))

    def totals(self, member: str | None = None) -> tuple[int, int, int]:
        """(blocks, rows, bytes) of a member, or of all."""
        chosen = np.ones(len(self), np.bool_)
        if member is not None:
            chosen = np.array([maker.member == member for maker in self.makers], np.bool_)[self._maker]
        rows, size = (self.table.column(name).to_numpy()[chosen].sum(dtype=np.int64) for name in ("rows", "bytes"))
        return int(chosen.sum()), int(rows), int(size)

    def without(self, slots: Iterable[Slot]) -> "Listing":
        """The same but for some slots."""
        gone = [row for slot in slots if (row := self._rows([slot.shard], slot.view, slot.member)[0]) >= 0]
        return self if not gone else Listing(self.table.take(np.setdiff1d(np.arange(len(self)), gone)))

    def joined(self, records: Sequence[Record]) -> "Listing":
        """The same and these, which take the place of any in their slots."""
        if not records:
            return self
        base = self.without(record.slot for record in records)
        return Listing(pa.concat_tables([base.table, table_of(records)]).unify_dictionaries())

    def _rows(self, shards: Sequence[str], view: int, member: str) -> NDArray[np.int64]:
        """Where each shard's record is, -1 where there is none."""
        code = self._member_codes.get(member, -1)
        if code < 0 or not 0 <= view < self._views:
            return np.full(len(shards), -1)
        shard = np.fromiter((self._shard_codes.get(name, -1) for name in shards), np.int64, len(shards))
        place = (code * self._views + view) * len(self._shards) + shard
        at = np.searchsorted(self._places, place).clip(max=len(self._places) - 1)
        return np.where((shard >= 0) & (self._places[at] == place), self._order[at], -1)

    def _record(self, row: int) -> Record:
        codes, hashes = self._sha256
        maker = self.makers[self._maker[row]]
        slot = Slot(self._shards[self._shard_code[row]], int(self._view[row]), maker.member)
        digest: str = self.table.column("checksum")[row].as_py().hex()
        return Record.model_construct(
            **dict(maker),
            shard=slot.shard,
            shard_sha256=hashes[codes[row]],
            view=slot.view,
            **{name: self.table.column(name)[row].as_py() for name in ("rows", "bytes")},
            checksum=digest,
            file=block_path(slot, digest),
        )


@dataclass
class _Generation:
    number: int
    listing: Listing


class Commits:
    """The commit records of a store."""

    def __init__(self, place: Place):
        self.place = place
        self._known = _Generation(0, Listing())
        self.refresh()

    def find(self, slot: Slot, checkpoint: str | None = None) -> Record | None:
        """The slot's record, or None while it is not committed; costs no listing of records.

        With a `checkpoint`, a record of other weights is looked up again before it is believed.
        """
        record = self._known.listing.find(slot)
        if record is not None and checkpoint in (None, record.checkpoint):
            return record
        single = self._single(commit_path(slot))
        if single is not None and single.slot == slot:
            return single
        if self.refresh() or record is not None:
            record = self._known.listing.find(slot)
        return record

    def add(self, record: Record) -> Record | None:
        """Commit a record; what is committed in the slot already, if anything is."""
        there = self.find(record.slot)
        if there is not None:
            return there
        if not self.place.create(commit_path(record.slot), [record.model_dump_json(indent=2).encode()]):
            return self.find(record.slot)
        self.refresh()
        earlier = self._known.listing.find(record.slot)
        if earlier is not None and earlier.checksum != record.checksum:  # compacted between the look and the commit
            self.place.delete(commit_path(record.slot))
            return earlier
        return None

    def listing(self) -> Listing:
        """Every record at this moment. Lists the single records: for planning and health, not for each block."""
        self.refresh()
        return self._known.listing.joined(self._singles())

    def retract(self, slots: Sequence[Slot]) -> None:
        """Make slots empty again.

        A generation is made even if the log holds none of them, so that a compaction which has read the single records
        already finds its number taken and gives up.
        """
        for slot in slots:
            self.place.delete(commit_path(slot))
        while slots:
            self.refresh()
            if self._advance(self._known.listing.without(slots)):
                return

    @property
    def worth_compacting(self) -> int:
        """Single records from which on a compaction pays: in proportion to the log, which is written anew."""
        return max(LEAST, len(self._known.listing) // 10)

    def compact(self, at_least: int | None = None) -> int:
        """Gather single records into the log if there are enough; how many records the log took up."""
        self.refresh()
        singles = self._singles()
        if len(singles) < (self.worth_compacting if at_least is None else at_least) or not self._advance(
            self._known.listing.joined(singles)
        ):
            return 0
        self.refresh()
        for record in singles:
            path = commit_path(record.slot)
            if self._known.listing.find(record.slot) == record == self._single(path):
                self.place.delete(path)
        return len(singles)

    def refresh(self) -> bool:
        """Take up the generation of the log that counts; whether it is a new one."""
        while True:
            generations = self._generations()
            newest = max(generations, default=0)
            if newest <= self._known.number:
                return False
            try:
                self._known = _Generation(newest, Listing(self._load(newest, generations[newest])))
                return True
            except FileNotFoundError:  # a newer one has taken its place
                continue

    def replace(self, listing: Listing) -> None:
        """Make a log of these records where there is none."""
        self._known = _Generation(0, Listing())
        self._advance(listing)
        self.refresh()

    def _advance(self, listing: Listing) -> bool:
        """Make the next generation; False if another process made it first, or a later one."""
        number = self._known.number + 1
        payload = serialize(listing.table)
        self.place.write(f"{LOG}/{number:08d}-{checksum(payload)}", [b""])
        if not self.place.create(_log_path(number), payload) or max(self._generations(), default=0) != number:
            return False
        for path, _ in self.place.list(LOG):
            if (found := _GENERATION.fullmatch(path)) and int(found[1]) < number:
                self.place.delete(path)
        return True

    def _generations(self) -> dict[int, list[str]]:
        """The checksums that each generation may have."""
        checksums: dict[int, list[str]] = {}
        found = [match for path, _ in self.place.list(LOG) if (match := _GENERATION.fullmatch(path))]
        for match in found:
            if match[2] is None:
                checksums[int(match[1])] = [m[2] for m in found if m[1] == match[1] and m[2] is not None]
        return checksums

    def _load(self, number: int, checksums: list[str]) -> pa.Table:
        buffer = self.place.read(_log_path(number))
        if checksum([buffer]) not in checksums:  # before Arrow sees a byte of it
            raise DamagedLog(
                f"{self.place.name}/{_log_path(number)}: the commit log is damaged (its checksum differs); "
                "mend it with kdscale logits fsck --repair"
            )
        table = pa.ipc.open_file(buffer).read_all()
        if table.schema != _SCHEMA:
            raise UserError(
                f"{self.place.name}/{_log_path(number)}: a commit log of another version of kdscale; use that version"
            )
        return table

    def _single(self, path: str) -> Record | None:
        try:
            return Record.model_validate_json(bytes(self.place.read(path)))
        except FileNotFoundError:
            return None
        except (ValueError, ValidationError) as error:
            raise UserError(
                f"{self.place.name}/{path}: not a commit record ({_short(error)}); mend it with kdscale logits fsck --repair"
            ) from None

    def _singles(self) -> list[Record]:
        """Every single record that can be read; fsck names those that cannot."""
        paths = [path for path, _ in self.place.list(FOLDER) if path.endswith(".json")]

        def readable(path: str) -> Record | None:
            with suppress(UserError):
                return self._single(path)
            return None

        with ThreadPoolExecutor(READERS) as pool:
            found = [record for record in pool.map(readable, paths) if record is not None]
        return sorted(found, key=lambda record: (record.member, record.view, record.shard))


def table_of(records: Iterable[Record]) -> pa.Table:
    """Records as the log's columns."""
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    makers: dict[str, str] = {}
    for record in records:
        key = f"{record.member} {record.checkpoint} {record.creator}"
        if key not in makers:
            makers[key] = json.dumps(record.maker.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        row = {"maker": makers[key], "checksum": bytes.fromhex(record.checksum)}
        for name, column in columns.items():
            column.append(row[name] if name in row else getattr(record, name))
    arrays = [
        pa.array(column, field.type.value_type).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(column, field.type)
        for field, column in zip(_SCHEMA, columns.values(), strict=True)
    ]
    return pa.table(arrays, schema=_SCHEMA)


def serialize(table: pa.Table) -> list[pa.Buffer]:
    """A log's file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table.unify_dictionaries().combine_chunks())
    return [sink.getvalue()]


def _dictionary(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Codes and the values they stand for."""
    if len(column) == 0:
        return np.zeros(0, np.int32), []
    array = column.unify_dictionaries().combine_chunks()
    return array.indices.to_numpy(), array.dictionary.to_pylist()


def _log_path(number: int) -> str:
    return f"{LOG}/{number:08d}.arrow"


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return str(error).splitlines()[0]

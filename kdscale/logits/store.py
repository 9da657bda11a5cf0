"""The store: blocks and their commit records, in a folder or an object store that all writers and readers share.

    STORE/store.json                                  what the store is of
    STORE/blocks/MEMBER/view-000/SHARD-CHECKSUM.arrow
    STORE/commits/MEMBER/view-000/SHARD.json          the block's checksum, rows, checkpoint, codec, ...
    STORE/log/00000001.arrow                          such records, compacted

A block is written under a name that holds its checksum and becomes visible by its commit record, which is made whole or
not at all, and at most once for a slot. A reader believes commit records alone, so debris of killed writers is never seen.
"""

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import ValidationError

from kdscale.errors import RunFailure, UserError
from kdscale.logits import blocks, codecs
from kdscale.logits.blocks import Block
from kdscale.logits.codecs import Codec
from kdscale.logits.commits import Commits, Listing
from kdscale.logits.places import Place, open_place, size
from kdscale.logits.records import Fused, Maker, Record, Slot, StoreInfo, block_path
from kdscale.seeds import derive, uniforms

FILE = "store.json"
GOLDEN = (5**0.5 - 1) / 2


class Store:
    """A logit store."""

    def __init__(self, place: Place, info: StoreInfo):
        self.place, self.info = place, info
        self.commits = Commits(place)
        self.codec = codecs.from_description(info.codec)

    @property
    def name(self) -> str:
        """Where it lies, as a person writes it."""
        return self.place.name

    @staticmethod
    def create(where: str | Path, info: StoreInfo) -> "Store":
        """Make a store, or open the one that is there if it is of the same.

        Args:
            where: a folder, or an object store's URL such as ``s3://bucket/prefix``.

        Raises:
            UserError: the store there is of another dataset, split or codec.
        """
        place = open_place(where)
        codecs.from_description(info.codec)
        made = [(info.model_dump_json(indent=2) + "\n").encode()]
        if (there := _read_info(place)) is None and not place.create(FILE, made):
            there = _read_info(place)
        if there is not None and there != info:
            raise UserError(
                f"{place.name}: {_mismatch(there, info)}; use another folder or the dataset it was made from"
            )
        return Store(place, info)

    @staticmethod
    def open(where: str | Path, dataset: str | None = None, split: str | None = None) -> "Store":
        """Open a store, of a certain dataset and split if they are given.

        Raises:
            UserError: there is no store, it is unreadable, or it was made from another dataset or split.
        """
        place = open_place(where)
        info = _read_info(place)
        if info is None:
            raise UserError(f"{place.name}: there is no logit store; make it with kdscale logits")
        wanted = info.model_copy(update={"dataset": dataset or info.dataset, "split": split or info.split})
        if info != wanted:
            raise UserError(
                f"{place.name}: {_mismatch(info, wanted)}; use another store or the dataset it was made from"
            )
        return Store(place, info)

    def record(self, slot: Slot, checkpoint: str | None = None) -> Record | None:
        """The slot's commit record, or None while it is not committed (by these weights, if they are given)."""
        found = self.commits.find(slot, checkpoint)
        return found if found is None or checkpoint in (None, found.checkpoint) else None

    def listing(self) -> Listing:
        """Every commit record at this moment."""
        return self.commits.listing()

    def commit(
        self,
        slot: Slot,
        keys: Sequence[str],
        logits: NDArray[np.float32],
        checkpoint: str,
        shard_sha256: str = "",
    ) -> Record:
        """Write a member's block and make it visible. The same block twice is harmless.

        Args:
            keys: the shard's keys, in its order.
            logits: (N, C) float32.
            checkpoint: sha256 of the member's weights, or any name of theirs that changes when they do.

        Raises:
            RunFailure: logits are not finite, or another block is already committed in the slot.
        """
        self._check_rows(slot, keys, logits)
        draws = self.draws(slot, keys) if self.codec.draws_lots else np.zeros(len(keys))
        maker = self._maker(slot.member, checkpoint, self.codec)
        return self.commit_columns(slot, keys, self.codec.encode(logits, draws), maker, shard_sha256)

    def commit_fused(
        self,
        slot: Slot,
        keys: Sequence[str],
        columns: dict[str, pa.Array],
        codec: Codec,
        fused: Fused,
        shard_sha256: str,
    ) -> Record:
        """Write a fused set's block, encoded already, and make it visible."""
        digest = xxhash.xxh3_128_hexdigest(fused.model_dump_json().encode())
        maker = self._maker(slot.member, digest, codec, fused)
        return self.commit_columns(slot, keys, columns, maker, shard_sha256)

    def commit_columns(
        self, slot: Slot, keys: Sequence[str], columns: dict[str, pa.Array], maker: Maker, shard_sha256: str
    ) -> Record:
        """Write encoded rows as a block and make it visible."""
        known = {"shard": slot.shard, "shard_sha256": shard_sha256, "view": slot.view, "rows": len(keys)}
        codec = codecs.from_description(maker.codec)
        payload = blocks.serialize(keys, columns, json.dumps(maker.model_dump() | known), codec.compression)
        checksum = blocks.checksum(payload)
        record = Record(
            **maker.model_dump(),
            **known,
            bytes=size(payload),
            checksum=checksum,
            file=block_path(slot, checksum),
        )
        there = self.record(slot)
        if there is None:
            self.place.write(record.file, payload)
            there = self.commits.add(record)
        if there is not None and there.checksum != checksum:
            self.place.delete(record.file)
            raise RunFailure(
                f"{self.name}: {slot.path} is already committed with checksum {there.checksum} (weights "
                f"{there.checkpoint[:12]}) and now came {checksum} (weights {maker.checkpoint[:12]}); give other weights "
                "another name, or make the slot empty with Store.retract"
            )
        return there or record

    def retract(self, *slots: Slot) -> None:
        """Make slots empty again, for members that were trained anew."""
        self.commits.retract(slots)

    def read(self, slot: Slot, checkpoint: str | None = None) -> Block:
        """A committed block, verified and mapped.

        Raises:
            UserError: it is not committed, is damaged, or was made by other weights than `checkpoint`.
        """
        record = self.record(slot, checkpoint)
        if record is None and checkpoint is not None and self.record(slot) is not None:
            raise UserError(
                f"{self.name}: the logits of {slot.path} were made by other weights of {slot.member}; "
                "label them again with kdscale logits"
            )
        if record is None:
            raise UserError(f"{self.name}: no logits of {slot.path}; make them with kdscale logits")
        where = f"{self.name}/{record.file}"
        mend = "mend it with kdscale logits fsck --repair"
        try:
            buffer = self.place.read(record.file)
        except FileNotFoundError:
            raise UserError(f"{where}: the block is missing; {mend}") from None
        if buffer.size != record.bytes or xxhash.xxh3_128_hexdigest(buffer) != record.checksum:
            raise UserError(f"{where}: the block is damaged (its checksum differs from the commit record); {mend}")
        return Block(blocks.read_table(buffer), _codec(json.dumps(record.codec)), self.info.classes)

    def draws(self, slot: Slot, keys: Sequence[str]) -> NDArray[np.float64]:
        """(N,) all the chance that a codec gets for these rows: functions of member, view and key alone.

        Each is uniform, and those of members with different numbers in their names are spread evenly: the golden ratio's
        multiples fall between one another, so draws that are added up err less than independent ones.
        """
        ids = np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))
        number = re.search(r"\d+", slot.member)
        turn = int(number[0][:9]) if number else xxhash.xxh3_64_intdigest(slot.member.encode()) % 1_000_003
        shared = uniforms(derive(0, "draws"), ids, np.full(len(keys), slot.view), 1)[:, 0]
        return (shared + turn * GOLDEN) % 1.0

    def _maker(self, member: str, checkpoint: str, codec: Codec, fused: Fused | None = None) -> Maker:
        return Maker(
            dataset=self.info.dataset,
            split=self.info.split,
            views=self.info.views,
            member=member,
            checkpoint=checkpoint,
            fused=fused,
            codec=codec.describe(),
            temperatures=codec.temperatures,
        )

    def _check_rows(self, slot: Slot, keys: Sequence[str], logits: NDArray[np.float32]) -> None:
        if logits.shape != (len(keys), self.info.classes):
            raise UserError(
                f"{self.name}: {slot.path} needs logits of shape ({len(keys)}, {self.info.classes}), rows by classes, "
                f"and was given {logits.shape}"
            )
        most = max(map(abs, torch.stack(torch.from_numpy(logits).aminmax()).tolist())) if logits.size else 0.0
        if most <= self.codec.limit and math.isfinite(most):
            return
        if math.isfinite(most):
            raise RunFailure(
                f"member {slot.member}: a logit of {most:.6g} in {slot.shard} does not fit float16; "
                "set logits.dtype to bfloat16 or float32"
            )
        bad = np.flatnonzero(~np.isfinite(logits).all(1))
        if np.isneginf(logits[~np.isfinite(logits)]).all():
            raise RunFailure(
                f"member {slot.member}: sample {keys[bad[0]]} in {slot.shard} has a logit of -inf; give log-probabilities "
                "a floor, such as numpy.maximum(z, -50)"
            )
        raise RunFailure(
            f"member {slot.member}: its logits of sample {keys[bad[0]]} in {slot.shard}, view {slot.view}, are not "
            f"finite ({len(bad)} such rows); the member is broken: remove it and train it with a lower learning rate"
        )


@lru_cache(maxsize=64)
def _codec(description: str) -> Codec:
    return codecs.from_description(json.loads(description))


def _read_info(place: Place) -> StoreInfo | None:
    try:
        return StoreInfo.model_validate_json(bytes(place.read(FILE)))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError):
        raise UserError(
            f"{place.name}/{FILE}: not a logit store's description; restore it or remove the store"
        ) from None


def _mismatch(there: StoreInfo, wanted: StoreInfo) -> str:
    name, value = next(
        (n, getattr(there, n)) for n in StoreInfo.model_fields if getattr(there, n) != getattr(wanted, n)
    )
    other = getattr(wanted, name)
    short, wanted_short = (f"{v[:12]}..." if isinstance(v, str) and len(v) > 16 else v for v in (value, other))
    return f"the logit store was made from another {name} ({short}, not {wanted_short})"

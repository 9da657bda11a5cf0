"""Capacity: what a store of a given size takes, before a byte of it is written. For `kdscale logits plan`."""

from dataclasses import asdict, dataclass
from typing import Any

from kdscale.logits import codecs
from kdscale.logits.codecs import Codec

KEY = 4
"""Bytes of a row's key in a compressed block, about; ten times that where blocks are mapped."""
RECORD = 51
"""Bytes of a record in the compacted commit log, as bench/store.py measures it."""


@dataclass(frozen=True)
class Need:
    """What one codec takes."""

    codec: str
    row: float
    """Bytes of a row of one member, with its key, at most."""
    sample: float
    """Bytes of a sample of the whole ensemble, at most."""
    total: float
    """Bytes of the store."""
    block: float
    """Bytes of a block."""
    files: int
    log: float
    """Bytes of the compacted commit log, which opening a store reads."""


@dataclass(frozen=True)
class Plan:
    """A store's size."""

    samples: int
    classes: int
    members: int
    views: int
    shard_size: int

    def need(self, name: str, codec: Codec, fused: bool = False) -> Need:
        """What this codec takes for every member, or for their one fused set."""
        members = 1 if fused else self.members
        row = codec.bytes_per_row(self.classes) + (KEY if codec.compression else 10 * KEY)
        blocks = -(-self.samples // self.shard_size) * self.views * members
        rows = self.samples * self.views * members
        return Need(
            codec=name,
            row=row,
            sample=row * members * self.views,
            total=row * rows,
            block=row * min(self.shard_size, self.samples),
            files=blocks,
            log=RECORD * blocks,
        )

    def needs(self) -> list[Need]:
        """Of the codecs that people choose between, the largest first."""
        draws = max(1, round(12 / self.members))
        one = [1.0]
        return [
            self.need("dense float16", codecs.make("dense", dtype="float16")),
            self.need("dense int8", codecs.make("dense", dtype="int8")),
            self.need("dense float16, fused", codecs.make("dense", dtype="float16"), fused=True),
            self.need("topk 32", codecs.make("topk", k=32, temperatures=one)),
            self.need("topk 8", codecs.make("topk", k=8, temperatures=one)),
            self.need(f"sampled, {draws} draw{'s' if draws > 1 else ''} a member", codecs.make("sampled", draws=draws)),
            self.need("sampled, fused", codecs.make("sampled", draws=draws * self.members), fused=True),
        ]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "needs": [asdict(need) for need in self.needs()]}

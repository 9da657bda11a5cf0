"""What a store and its blocks say of themselves: the store's description, slots, commit records."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from kdscale import __version__
from kdscale.errors import UserError

_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}\.tar")


@dataclass(frozen=True)
class Slot:
    """Where a block belongs."""

    shard: str
    """The shard's name in the data manifest."""
    view: int
    member: str
    """A member, or a fused set of members by its name."""

    def __post_init__(self) -> None:
        if not _MEMBER.fullmatch(self.member):
            raise UserError(
                f"member {self.member!r}: names of members begin with a letter or digit and go on with those, '.', '_' "
                "and '-', 100 at most; take another name"
            )

    @property
    def path(self) -> str:
        """Where it lies in the store. A shard that is not a plain NAME.tar gets a hash of its whole name."""
        if _PLAIN.fullmatch(self.shard):
            return f"{self.member}/view-{self.view:03d}/{self.shard.removesuffix('.tar')}"
        base = re.sub(r"[^A-Za-z0-9_-]+", "_", self.shard.rsplit("/", 1)[-1])[:80]
        return f"{self.member}/view-{self.view:03d}/{base}-{xxhash.xxh3_64_hexdigest(self.shard.encode())[:12]}"


class StoreInfo(BaseModel):
    """What a store is of; written once, when it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    dataset: str
    """Fingerprint of the data manifest, or any name of one's own."""
    split: str = "train"
    classes: int
    codec: dict[str, Any] = Field(default_factory=lambda: {"name": "dense", "dtype": "float16"})
    """Name and parameters of the members' codec."""
    views: str = "plain"
    """Fingerprint of how views are made and samples normalised."""


class Fused(BaseModel):
    """What a fused set is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: dict[str, str]
    """sha256 of the weights of each member."""
    weights: dict[str, float]
    """Of each member, summing to 1."""
    rule: str
    temperature: float | None = None
    """At which the members were fused; None where it stays open."""


class Maker(BaseModel):
    """The part of a commit record that all blocks of a member share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    dataset: str
    split: str
    views: str
    member: str
    checkpoint: str
    """sha256 of the member's weights; of a fused set, the digest of what it is made of."""
    fused: Fused | None = None
    """The members of a fused set and their checkpoints."""
    codec: dict[str, Any]
    temperatures: list[float] | None = None
    """Those that the block serves; None where logits are stored and the temperature stays open."""
    creator: str = f"kdscale {__version__}"


class Record(Maker):
    """A commit record."""

    shard: str
    shard_sha256: str
    view: int
    rows: int
    bytes: int
    checksum: str
    """xxh3-128 of the block file."""
    file: str
    """The block, relative to the store."""

    @property
    def slot(self) -> Slot:
        return Slot(self.shard, self.view, self.member)

    @property
    def maker(self) -> Maker:
        return Maker.model_validate(self.model_dump(include=set(Maker.model_fields)))


def block_path(slot: Slot, checksum: str) -> str:
    """Where a block of this content lies."""
    return f"blocks/{slot.path}-{checksum[:12]}.arrow"


def commit_path(slot: Slot) -> str:
    """Where the slot's commit record lies until it is compacted."""
    return f"commits/{slot.path}.json"

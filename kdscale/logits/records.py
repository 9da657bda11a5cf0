"""What a store and its blocks say of themselves: the store's description, slots, commit records."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from kdscale import __version__


@dataclass(frozen=True)
class Slot:
    """Where a block belongs."""

    shard: str
    """The shard's name in the data manifest."""
    view: int
    member: str
    """A member, or a fused set of members by its name."""

    @property
    def path(self) -> str:
        """Where it lies in the store; shards that are named by a path or URL get a hash of all of it."""
        base = PurePosixPath(self.shard.rsplit("/", 1)[-1]).stem
        unique = "" if "/" not in self.shard else f"-{xxhash.xxh3_64_hexdigest(self.shard.encode())[:8]}"
        return f"{self.member}/view-{self.view:03d}/{base}{unique}"


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

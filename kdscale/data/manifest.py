"""The shard manifest: what a dataset is, without reading its samples.

Written last by an import, so a dataset without one is not there. Its fingerprint names the dataset
everywhere else: members, logit blocks and students carry it.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kdscale.errors import UserError
from kdscale.files import digest, read_json, write_json

FILE = "manifest.json"
SPLITS = ("train", "validation", "test")


class Shard(BaseModel):
    """One WebDataset tar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """File name within the dataset's folder, or a URL."""
    samples: int
    bytes: int
    sha256: str


class SampleSpec(BaseModel):
    """What one sample is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image", "array"]
    """image: a Pillow format, decoded to uint8; array: a .npy member, float32."""
    shape: tuple[int, ...]
    """Channels, height, width of an image; the array's own shape otherwise."""


class Manifest(BaseModel):
    """A dataset: its shards by split, classes and statistics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    classes: list[str]
    sample: SampleSpec
    mean: list[float]
    """Of the training split, a channel each; images are in [0, 1]. Arrays have a single one."""
    std: list[float]
    splits: dict[str, list[Shard]]

    @property
    def fingerprint(self) -> str:
        """sha256 over everything in the manifest, and so over every byte of the shards."""
        return digest(self.model_dump(mode="json"))

    def samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.splits[split])

    def save(self, folder: Path) -> None:
        tree: dict[str, Any] = self.model_dump(mode="json")
        write_json(folder / FILE, {"fingerprint": self.fingerprint, **tree})

    @staticmethod
    def load(folder: Path) -> "Manifest":
        """Read a dataset's manifest.

        Raises:
            UserError: there is none, it cannot be read, or it was changed after it was written.
        """
        try:
            tree = read_json(folder / FILE)
        except ValueError as error:
            raise UserError(f"{folder / FILE}: not valid JSON ({error}); import the dataset again") from None
        if tree is None:
            raise UserError(f"{folder}: no {FILE} there, so no dataset; make one with kdscale data import")
        fingerprint = tree.pop("fingerprint", None)
        try:
            manifest = Manifest.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{folder / FILE}: {where}: {first['msg']}; import the dataset again") from None
        if fingerprint != manifest.fingerprint:
            raise UserError(
                f"{folder / FILE}: changed after it was written (its fingerprint differs); import the dataset again"
            )
        return manifest

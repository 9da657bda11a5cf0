"""Where each sample of a shard lies, so that a few of them can be read without the rest.

A lane's window is one contiguous stretch of a shard, or of several, hence one range of bytes of each tar: a restart reads
no more than its windows, from a disk or over HTTP. An index is made whenever a tar is read to its end and kept beside
the dataset; whoever deletes it loses nothing but one reading. What is read by ranges is checked sample by sample.
"""

import shutil
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kdscale.data.manifest import Shard
from kdscale.files import written_aside

FOLDER = ".index"


@dataclass(frozen=True)
class Index:
    """A shard's samples in the order of the tar."""

    keys: list[str]
    y: NDArray[np.int64]
    """(N,) class numbers."""
    starts: NDArray[np.int64]
    """(N + 1,) where each sample's first header begins, and where the last one ends."""
    sums: NDArray[np.uint64]
    """(N,) xxh3 of each sample's members."""


def checksum(members: dict[str, bytes]) -> int:
    """Of a sample: its members' extensions and contents."""
    hashing = xxhash.xxh3_64()
    for extension, payload in members.items():
        hashing.update(f"{extension}:{len(payload)}:".encode())
        hashing.update(payload)
    return hashing.intdigest()


def load(folder: Path, shard: Shard) -> Index | None:
    """A kept index; None if there is none."""
    try:
        tensors = load_file(_path(folder, shard))
        keys = bytes(tensors["keys"].numpy()).decode().split("\0")
        y, starts = tensors["y"].numpy(), tensors["starts"].numpy()
        sums = tensors["sums"].numpy().view(np.uint64)
    except (OSError, SafetensorError, KeyError):
        return None
    whole = len(keys) == len(y) == len(sums) == len(starts) - 1 == shard.samples
    return Index(keys, y, starts, sums) if whole else None


def keep(folder: Path, shard: Shard, index: Index) -> None:
    """Keep an index, whole or not at all; a folder that cannot be written is left alone."""
    tensors = {
        "keys": torch.frombuffer(bytearray("\0".join(index.keys).encode()), dtype=torch.uint8),
        "y": torch.from_numpy(index.y),
        "starts": torch.from_numpy(index.starts),
        "sums": torch.from_numpy(index.sums.view(np.int64)),
    }
    with suppress(OSError, SafetensorError), written_aside(_path(folder, shard)) as temporary:
        save_file(tensors, temporary)


def forget(folder: Path) -> None:
    """Delete all indices of a dataset."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


class Places:
    """Notes where samples lie while a tar is read."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sums: list[int] = []
        self.end = 0

    def passed(self, member: tarfile.TarInfo) -> None:
        """A member was read."""
        blocks = -(-member.size // tarfile.BLOCKSIZE)
        self.end = member.offset_data + blocks * tarfile.BLOCKSIZE

    def index(self, keys: list[str], y: NDArray[np.int64]) -> Index:
        starts = np.array([*self.starts, self.end], np.int64)
        return Index(keys, y, starts, np.array(self.sums, np.uint64))


def _path(folder: Path, shard: Shard) -> Path:
    return folder / FOLDER / f"{shard.sha256[:32]}.safetensors"

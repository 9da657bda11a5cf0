"""Decoded shards kept beside a dataset, for every process to map: what was decoded once is not decoded again.

Decoding costs more than training where members are small: 60,000 images of 28 x 28 take a process several seconds,
and each of N members would pay them. Only datasets that fit in a process's memory are kept so. The files are a
convenience: whoever deletes them, or has no room for them, loses nothing but time.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kdscale.data.manifest import Manifest, SampleSpec, Shard
from kdscale.data.shards import Decoded, dtype
from kdscale.files import written_aside

FOLDER = ".decoded"
MOST = 2 << 30
"""Bytes of a split, decoded, that are kept on disk at most."""


def fits(spec: SampleSpec, samples: int) -> bool:
    """Whether a split of so many samples is kept."""
    return samples * int(np.prod(spec.shape)) * dtype(spec).itemsize <= MOST


def load(folder: Path, shard: Shard, manifest: Manifest) -> Decoded | None:
    """A kept shard, its samples mapped from the file; None if it is not there or is not what the manifest says."""
    path = _path(folder, shard)
    spec = manifest.sample
    try:
        with safe_open(path, framework="pt") as file:
            x, y, ids, keys = (file.get_tensor(name).numpy() for name in ("x", "y", "ids", "keys"))
    except (OSError, SafetensorError):
        return None
    if x.shape != (shard.samples, *spec.shape) or x.dtype != dtype(spec):
        return None
    names = bytes(keys).decode().split("\0")
    whole = len(names) == len(y) == len(ids) == shard.samples and y.min() >= 0 and y.max() < len(manifest.classes)
    return Decoded(names, ids.view(np.uint64), x, y) if whole else None


def keep(folder: Path, shard: Shard, decoded: Decoded) -> None:
    """Keep a decoded shard, whole or not at all; a folder that cannot be written is left alone."""
    tensors = {
        "x": torch.from_numpy(decoded.x),
        "y": torch.from_numpy(decoded.y),
        "ids": torch.from_numpy(decoded.ids.view(np.int64)),
        "keys": torch.frombuffer(bytearray("\0".join(decoded.keys).encode()), dtype=torch.uint8),
    }
    with suppress(OSError, SafetensorError), written_aside(_path(folder, shard)) as temporary:
        save_file(tensors, temporary)


def forget(folder: Path) -> None:
    """Delete all that is kept of a dataset."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _path(folder: Path, shard: Shard) -> Path:
    return folder / FOLDER / f"{shard.sha256[:32]}.safetensors"

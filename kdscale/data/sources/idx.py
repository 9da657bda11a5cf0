"""The idx files of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST), plain or gzipped.

The format: two zero bytes, a type (8 is unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit number, then the values, the last dimension fastest.
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.sources.arrays import ArraySource, Part
from kdscale.errors import UserError

OPTIONS = frozenset({"classes"})
_NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(?:\.gz)?")


def load(path: Path, options: dict[str, Any], image_size: int | None) -> ArraySource:
    """The folder's `train-images-idx3-ubyte[.gz]` and the like; t10k is the test split.

    Raises:
        UserError: a file is missing, cut off, of another format, or images and labels differ in number.
    """
    if not path.is_dir():
        raise UserError(f"data.path: {path} is a file; give the folder that holds the idx files")
    files: dict[tuple[str, str], Path] = {}
    datasets = set()
    for file in sorted(path.iterdir(), reverse=True):  # x.gz before x, so that the plain file wins
        if match := _NAME.fullmatch(file.name):
            datasets.add(match[1])
            files["train" if match[2] == "train" else "test", match[3]] = file
    if len(datasets) > 1:
        raise UserError(f"{path}: holds several datasets ({', '.join(sorted(datasets))}); give each its own folder")
    parts = []
    for split in ("train", "test"):
        pictures, labels = files.get((split, "images")), files.get((split, "labels"))
        if pictures is None and labels is None and split == "test":
            continue
        if pictures is None or labels is None:
            missing = f"{split}-{'images-idx3' if pictures is None else 'labels-idx1'}-ubyte"
            raise UserError(f"{path}: there is no {missing} or {missing}.gz; put it there")
        x, y = read(pictures), read(labels)
        if len(x) != len(y):
            raise UserError(f"{pictures}: {len(x)} images, but {labels.name} has {len(y)} labels; fetch both again")
        parts.append(Part(str(pictures), split, x, y))
    return ArraySource(parts, options.get("classes"), image_size)


def read(file: Path) -> NDArray[np.uint8]:
    """One idx file of unsigned bytes.

    Raises:
        UserError: not an idx file, another type of values, or more or fewer bytes than its header says.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be unpacked ({error}); fetch it again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[3] == 0 or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{file}: not an idx file (it begins with {raw[:4].hex() or 'nothing'}); fetch it again")
    if raw[2] != 8:
        raise UserError(f"{file}: holds values of idx type 0x{raw[2]:02x} where 0x08, unsigned bytes, is expected")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    start, count = 4 + 4 * raw[3], math.prod(shape)
    if len(raw) - start != count:
        raise UserError(
            f"{file}: {len(raw) - start} bytes of values where its header says {count} "
            f"({'truncated' if len(raw) - start < count else 'too long'}); fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)

"""Samples that are rows of NumPy arrays: what digits, idx, npz, list columns and functions come down to."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.manifest import SPLITS, SampleSpec
from kdscale.data.shards import Encoded
from kdscale.data.sources import images
from kdscale.data.sources.labels import class_names, whole_numbers
from kdscale.data.sources.splits import SYNONYMS
from kdscale.errors import UserError

INPUTS = frozenset({"x", "image", "images", "data", "inputs", "features"})
GROUPS = frozenset({"group", "groups"})
LABELS = frozenset({"y", "label", "labels", "target", "targets"})


@dataclass(frozen=True)
class Part:
    """The samples of one split, or of the whole pool."""

    name: str
    """Names the part in messages: a file, or the array in it."""
    split: str | None
    x: NDArray[Any]
    """(N, ...) samples; uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3 are images."""
    y: NDArray[Any]
    """(N,) class numbers."""
    groups: NDArray[Any] | None = None
    """(N,) what each sample belongs to that no other split may have a sample of (data.group)."""


class ArraySource:
    """Samples in memory: uint8 of an image's shape become PNGs, everything else float32 arrays."""

    def __init__(self, parts: Iterable[Part], classes: Any = None, image_size: int | None = None):
        """Check the parts against each other.

        Raises:
            UserError: lengths, shapes or types disagree, a type holds no numbers, or a label is not a class number.
        """
        self._parts = sorted(parts, key=lambda part: SPLITS.index(part.split or "train"))
        for part in self._parts:
            _check(part, self._parts[0])
        first = self._parts[0]
        self._layout = _layout(first.x)
        if self._layout is None:
            if image_size is not None:
                raise UserError(
                    f"data.image_size: {first.name} holds arrays of shape {first.x.shape[1:]}, {first.x.dtype}, "
                    "not images; leave it out"
                )
            self.spec = SampleSpec(kind="array", shape=first.x.shape[1:])
        else:
            channels, height, width = self._pixels(first.x[:1]).shape[1:]
            if image_size is not None:
                height = width = image_size
            self.spec = SampleSpec(kind="image", shape=(channels, height, width))
        self._image_size = image_size
        labels = [whole_numbers(part.name, part.y) for part in self._parts]
        for part, numbers in zip(self._parts, labels, strict=True):
            if len(numbers) != len(part.x):
                raise UserError(
                    f"{part.name}: {len(part.x)} samples but {len(numbers)} labels; give each sample its label"
                )
        self.labels = np.concatenate(labels)
        largest = max(range(len(labels)), key=lambda number: labels[number].max(initial=-1))
        names = class_names(self._parts[largest].name, labels[largest] if classes is not None else self.labels, classes)
        self.classes = names
        self.splits: NDArray[np.str_] | None = None
        if all(part.split for part in self._parts):
            self.splits = np.repeat(
                np.array([part.split for part in self._parts], np.str_), [len(part.x) for part in self._parts]
            )
        self._ends = np.cumsum([len(part.x) for part in self._parts])
        self.memory = sum(part.x.nbytes for part in self._parts)

    def group_by(self, name: str) -> NDArray[np.str_]:
        """(N,) the group of each sample.

        Raises:
            UserError: no array of that name came with the samples, or one of another length.
        """
        parts = []
        for part in self._parts:
            if part.groups is None or name not in GROUPS:
                raise UserError(f"data.group: {part.name} has no array {name} beside it; add one named group")
            if len(part.groups) != len(part.x):
                raise UserError(
                    f"{part.name}: {len(part.x)} samples but {len(part.groups)} groups; give each its group"
                )
            parts.append(np.asarray(part.groups).astype(np.str_))
        return np.concatenate(parts)

    def where(self, index: int) -> str:
        part, row = self._find(index)
        return f"{part.name} row {row}"

    def encode(self, index: int) -> Encoded:
        part, row = self._find(index)
        key = f"{part.split or 'sample'}-{row:08d}"
        label = int(self.labels[index])
        if self._layout is not None:
            pixels = self._pixels(part.x[row : row + 1])[0]
            return Encoded(key, "png", images.png(pixels, self._image_size), label)
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(part.x[row], np.dtype("<f4"))
        if not np.isfinite(array).all():
            raise UserError(f"{part.name} row {row}: holds NaN or infinite numbers; mend or drop the row")
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return Encoded(key, "npy", buffer.getvalue(), label)

    def arrays(self, split: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Samples as they lie in memory and their labels: of a split, or of the pool, whose name is sample."""
        ends = [0, *self._ends.tolist()]
        number = [part.split or "sample" for part in self._parts].index(split)
        return self._parts[number].x, self.labels[ends[number] : ends[number + 1]]

    def _find(self, index: int) -> tuple[Part, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[number], index - (int(self._ends[number - 1]) if number else 0)

    def _pixels(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """(N, channels, height, width) of images in any layout."""
        if self._layout == "hw":
            return x[:, None]
        return x.transpose(0, 3, 1, 2) if self._layout == "hwc" else x


def parts_of(where: str, arrays: Mapping[str, Any], split: str | None = None) -> list[Part]:
    """Parts of named arrays: x and y, x_train and y_train, train_images and train_labels, and so on.

    `split` is that of plain x and y. Arrays of other names are left alone.

    Raises:
        UserError: no inputs, inputs without labels, or both a pool and splits.
    """
    found: dict[tuple[str, str | None], str] = {}
    for name in arrays:
        words = set(re.findall(r"[a-z]+", str(name).lower()))
        named = {SYNONYMS[word] for word in words if word in SYNONYMS}
        for role, known in (("x", INPUTS), ("y", LABELS), ("group", GROUPS)):
            if words & known and len(named) <= 1 and words <= known | SYNONYMS.keys():
                found[role, named.pop() if named else split] = str(name)
                break
    inputs = [key[1] for key in found if key[0] == "x"]
    names = ", ".join(map(str, arrays)) or "nothing"
    if not inputs:
        raise UserError(f"{where}: no arrays x and y, or x_train, y_train, x_test, y_test; there is {names}")
    if len(inputs) > 1 and None in inputs:
        raise UserError(f"{where}: both {found['x', None]} and arrays that name a split; keep one or the other")
    for key in inputs:
        if ("y", key) not in found:
            raise UserError(f"{where}: {found['x', key]} has no labels beside it; there is {names}")
    parts = []
    for key in inputs:
        x, y = (_array(where, arrays, found[role, key]) for role in ("x", "y"))
        groups = _array(where, arrays, found["group", key]) if ("group", key) in found else None
        parts.append(Part(f"{where}: {found['x', key]}", key, x, y, groups))
    return parts


def _array(where: str, arrays: Mapping[str, Any], name: str) -> NDArray[Any]:
    try:
        return np.asarray(arrays[name])
    except ValueError as error:
        reason = "it holds Python objects, which are never unpickled" if "allow_pickle" in str(error) else str(error)
        raise UserError(f"{where}: the array {name} cannot be read ({reason}); store plain numbers") from None


def _check(part: Part, first: Part) -> None:
    x = part.x
    if x.dtype.kind not in "biuf":
        raise UserError(f"{part.name}: samples of type {x.dtype} are not numbers; store uint8 or float arrays")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise UserError(f"{part.name}: has shape {x.shape} where (samples, ...) is expected; give each sample a shape")
    if (x.shape[1:], x.dtype) != (first.x.shape[1:], first.x.dtype):
        raise UserError(
            f"{part.name}: samples of shape {x.shape[1:]}, {x.dtype}, but {first.name} has {first.x.shape[1:]}, "
            f"{first.x.dtype}; make them alike"
        )


def _layout(x: NDArray[Any]) -> str | None:
    if x.dtype != np.uint8:
        return None
    if x.ndim == 3:
        return "hw"
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return "hwc"
    return "chw" if x.ndim == 4 and x.shape[1] in (1, 3) else None

"""Digit strings: d handwritten digits side by side, the class being the number that they show.

As many confusable classes as one asks for, out of real pictures (d = 3 gives 1,000), with confusions whose structure is
known: a 4 for a 9, in any place. Digits are dealt to train, validation and test before strings are put together, so no
picture is in two splits. What a string shows is a function of (seed, split, row) alone; it is put together when it is
asked for, and only the single digits and the labels are held.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdscale.data.manifest import SPLITS, SampleSpec
from kdscale.data.shards import Encoded
from kdscale.data.sources import images
from kdscale.errors import UserError
from kdscale.seeds import derive, generator

OPTIONS = frozenset({"length", "train", "validation", "test", "seed", "noise", "digits", "zipf", "size"})
_LARGEST = 6
"""Digits of a string; a million classes."""


@dataclass(frozen=True)
class _Wanted:
    length: int
    samples: dict[str, int]
    seed: int
    noise: float
    digits: int | None
    zipf: float
    size: int | None


def load(path: Path, options: dict[str, Any], image_size: int | None) -> "DigitStrings":
    """Strings of the digits of MNIST, `path` being the folder of its idx files, or of scikit-learn's where it is empty.

    Options: `length` d (3); `train`, `validation`, `test` samples (20, 2 and 2 for each class); `seed` (0); `noise`,
    the standard deviation of Gaussian noise in units of the full range (0); `digits`, how many pictures of each digit
    training strings are made of (all); `zipf`, the exponent of a skewed class prior, classes ranked at random (0: even);
    `size`, pixels a side of each digit (as they are).

    Raises:
        UserError: an option out of its range, or digits that cannot be read.
    """
    return DigitStrings(path, _wanted(options), image_size)


class DigitStrings:
    """Strings of digits, made on demand."""

    def __init__(self, path: Path, wanted: _Wanted, image_size: int | None):
        self._wanted, self._image_size = wanted, image_size
        self._name = "digit strings" if path == Path() else f"digit strings of {path}"
        self._pictures = _deal(path, wanted)
        height, width = self._pictures["train"][0].shape[1:]
        width *= wanted.length
        self.spec = SampleSpec(kind="image", shape=(1, image_size or height, image_size or width))
        count = 10**wanted.length
        self.classes = [f"{number:0{wanted.length}d}" for number in range(count)]
        prior = _prior(count, wanted)
        parts = [_labels(prior, wanted, split) for split in SPLITS]
        self.labels = np.concatenate(parts)
        self.splits: NDArray[np.str_] | None = np.repeat(np.array(SPLITS, np.str_), [len(part) for part in parts])
        self._starts = dict(zip(SPLITS, np.cumsum([0, *map(len, parts[:-1])]).tolist(), strict=True))
        self.memory = sum(picture.nbytes for lists in self._pictures.values() for picture in lists)

    def where(self, index: int) -> str:
        split, row = self._find(index)
        return f"{self._name}, {split} row {row}"

    def encode(self, index: int) -> Encoded:
        split, row = self._find(index)
        key = f"{split}-{row:08d}"
        return Encoded(key, "png", images.png(self.pixels(index), self._image_size), int(self.labels[index]))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(1, height, length * width) picture of the string."""
        split, row = self._find(index)
        wanted = self._wanted
        random = generator(derive(wanted.seed, "string", split, row))
        pictures = self._pictures[split]
        shown = [pictures[int(digit)] for digit in self.classes[int(self.labels[index])]]
        wide = np.concatenate([of[int(random.integers(len(of)))] for of in shown], axis=1)
        if wanted.noise:
            noisy = wide + random.normal(0, 255 * wanted.noise, wide.shape)
            wide = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return wide[None]

    def _find(self, index: int) -> tuple[str, int]:
        split = next(split for split in reversed(SPLITS) if index >= self._starts[split])
        return split, index - self._starts[split]


def _wanted(options: dict[str, Any]) -> _Wanted:
    length = _whole(options, "length", 3, 1)
    if length > _LARGEST:
        raise UserError(f"data.options.length: {length} gives 10^{length} classes; take at most {_LARGEST}")
    samples = {
        split: _whole(options, split, each * 10**length, 10**length if split == "train" else 1)
        for split, each in zip(SPLITS, (20, 2, 2), strict=True)
    }
    digits = _whole(options, "digits", 1, 1) if options.get("digits") is not None else None
    seed = _whole(options, "seed", 0, 0)
    size = _whole(options, "size", 1, 1) if options.get("size") is not None else None
    return _Wanted(length, samples, seed, _number(options, "noise"), digits, _number(options, "zipf"), size)


def _whole(options: dict[str, Any], name: str, default: int, least: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"data.options.{name}: is {value}; give a whole number from {least} up")
    return value


def _number(options: dict[str, Any], name: str) -> float:
    value = options.get(name, 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise UserError(f"data.options.{name}: is {value}; give a number from 0 up")
    return float(value)


def _prior(count: int, wanted: _Wanted) -> NDArray[np.float64]:
    """(C,) probabilities of the classes, rank^-zipf, ranks dealt at random."""
    weight = np.arange(1, count + 1, dtype=np.float64) ** -wanted.zipf
    weight = weight[generator(derive(wanted.seed, "ranks")).permutation(count)]
    prior: NDArray[np.float64] = weight / weight.sum()
    return prior


def _labels(prior: NDArray[np.float64], wanted: _Wanted, split: str) -> NDArray[np.int64]:
    """(N,) classes in random order. Every class is in train; the rest follows the prior."""
    random = generator(derive(wanted.seed, "labels", split))
    total, count = wanted.samples[split], len(prior)
    sure = np.arange(count) if split == "train" else np.arange(0)
    if wanted.zipf:
        rest = np.searchsorted(np.cumsum(prior)[:-1], random.random(total - len(sure)), side="right")
    else:  # as even as whole numbers can be
        whole, over = divmod(total - len(sure), count)
        rest = np.concatenate([np.tile(np.arange(count), whole), random.permutation(count)[:over]])
    labels: NDArray[np.int64] = random.permutation(np.concatenate([sure, rest]).astype(np.int64))
    return labels


def _deal(path: Path, wanted: _Wanted) -> dict[str, list[NDArray[np.uint8]]]:
    """The pictures of each digit, by split; MNIST keeps its own test digits, validation has a tenth of the others."""
    pools = _scikit() if path == Path() else _idx(path)
    if wanted.size is not None:
        pools = [(_resized(x, wanted.size), y) for x, y in pools]
    dealt: dict[str, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
    for digit in range(10):
        x, y = pools[0]
        own = x[y == digit]
        own = own[generator(derive(wanted.seed, "digits", digit)).permutation(len(own))]
        if len(pools) == 2:
            dealt["test"].append(pools[1][0][pools[1][1] == digit])
        else:
            cut = len(own) // 5
            dealt["test"].append(own[:cut])
            own = own[cut:]
        cut = max(1, len(own) // 10)
        dealt["validation"].append(own[:cut])
        dealt["train"].append(own[cut:][: wanted.digits])
    for split, lists in dealt.items():
        for digit, pictures in enumerate(lists):
            if not len(pictures):
                raise UserError(
                    f"{path}: there are too few pictures of the digit {digit} for a {split} split; add some"
                )
    return dealt


def _resized(x: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, H, W) -> (N, size, size), pixels averaged."""
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BOX)) for one in x])


def _scikit() -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    from kdscale.data.sources.digits import load as load_digits

    return [load_digits(Path(), {}, None).arrays("sample")]


def _idx(path: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    from kdscale.data.sources.idx import load as load_idx

    source = load_idx(path, {}, None)
    if source.spec.shape[0] != 1 or not len(source.classes) >= 10:
        raise UserError(
            f"{path}: holds {len(source.classes)} classes of pictures, not the ten digits; give MNIST's folder"
        )
    named = set() if source.splits is None else set(source.splits.tolist())
    return [source.arrays(split) for split in ("train", "test") if split in named]

"""A thousand classes out of ten digits: three digits side by side, labelled by the number that they show.

A benchmark of codecs needs many classes that are confused with one another, on a machine without a data set of many
classes. Digits are split into those for training and those for testing before they are put side by side, so no test
triple holds a digit that was trained on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CLASSES = 1000


@dataclass(frozen=True)
class Triples:
    """Pictures as (N, pixels) float32 about 0, labels (N,) from 0 to 999."""

    x: Tensor
    y: Tensor


def load(folder: Path | None, train: int, test: int, digits: int | None = None) -> tuple[Triples, Triples, str]:
    """Training and test triples, and where the digits come from.

    Args:
        folder: with the four idx files of MNIST; None for scikit-learn's 8x8 digits.
        train: training triples.
        test: test triples.
        digits: single digits that training triples are made of; None for all.
    """
    if folder is None:
        pictures, labels, name = *_small_digits(), "8x8 digits of scikit-learn"
    else:
        pictures, labels, name = *_mnist(folder), f"MNIST in {folder}, halved to 14x14"
    random = np.random.default_rng(0)
    return (
        _put_together(pictures[0][:digits], labels[0][:digits], train, random),
        _put_together(pictures[1], labels[1], test, random),
        name,
    )


def folder_of(asked: Path | None) -> Path | None:
    """The folder asked for, else the one that is usually there, else None."""
    usual = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnist"
    if asked is not None and not asked.is_dir():
        sys.exit(f"--data {asked}: there is no such folder; give the one with the idx files of MNIST, or leave it out")
    return asked or (usual if usual.is_dir() else None)


def _put_together(pictures: np.ndarray, labels: np.ndarray, count: int, random: np.random.Generator) -> Triples:
    chosen = random.integers(0, len(pictures), (count, 3))
    wide = np.concatenate([pictures[chosen[:, place]] for place in range(3)], 2)
    number = labels[chosen] @ np.array([100, 10, 1])
    return Triples(torch.from_numpy(wide.reshape(count, -1) - 0.13), torch.from_numpy(number))


def _small_digits() -> tuple[list[np.ndarray], list[np.ndarray]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.target))
    x, y = digits.images[order].astype(np.float32) / 16, digits.target[order].astype(np.int64)
    return [x[:1200], x[1200:]], [y[:1200], y[1200:]]


def _mnist(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    from kdscale.data.sources.idx import read

    def find(start: str) -> np.ndarray:
        return read(min(folder.glob(f"{start}-ubyte*")))

    pictures, labels = [], []
    for split in ("train", "t10k"):
        x = find(f"{split}-images-idx3").astype(np.float32) / 255
        pictures.append(x.reshape(-1, 14, 2, 14, 2).mean((2, 4)))
        labels.append(find(f"{split}-labels-idx1").astype(np.int64))
    return pictures, labels

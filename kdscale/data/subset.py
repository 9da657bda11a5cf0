"""A part of a split's samples: a random share of them, or those of some classes.

Bagged members, students of a small transfer set, and transfer sets that lack a class learn from one. The shards stay as they
are, and so does what is stored of them: a subset only says which of their rows are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdscale.data.dataset import Dataset
from kdscale.data.order import Rows
from kdscale.errors import UserError
from kdscale.seeds import derive, generator


@dataclass(frozen=True)
class Subset:
    """The rows of each shard that are read."""

    rows: tuple[NDArray[np.int64], ...]
    """Ascending, one array a shard."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(rows) for rows in self.rows)

    def place(self, rows: Rows) -> Rows:
        """Where samples of the subset lie in the shards: `rows.row` counts the subset's alone."""
        if not len(rows.row):
            return rows
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        return Rows(rows.shard, np.concatenate(self.rows)[starts[rows.shard] + rows.row], rows.epoch)


def check_classes(asked: Sequence[str], known: Sequence[str], field: str) -> None:
    """Refuse a class that the dataset has not."""
    for name in asked:
        if name not in known:
            more = ", ..." if len(known) > 20 else ""
            raise UserError(f"{field}: there is no class {name}; there are {', '.join(known[:20])}{more}")


def select(dataset: Dataset, share: float, classes: Sequence[str] | None, seed: int) -> Subset | None:
    """A share of the samples of some classes, a function of the dataset and the seed; None for all samples of all classes.

    A share is drawn without replacement from what the classes leave, and is round(share N) samples, one at least.

    Raises:
        UserError: there is no such class, or no sample of the classes.
    """
    if share == 1 and classes is None:
        return None
    rows = [np.arange(size) for size in dataset.sizes]
    if classes is not None:
        known = dataset.manifest.classes
        check_classes(classes, known, "classes")
        wanted = np.isin(known, list(classes))
        rows = [np.flatnonzero(wanted[dataset.labels(number)]) for number in range(len(rows))]
    counts = [len(each) for each in rows]
    if not sum(counts):
        raise UserError(f"classes: no training sample is of {', '.join(classes or [])}; name others")
    if share < 1:
        drawn = generator(derive(seed, "share")).permutation(sum(counts))[: max(1, round(share * sum(counts)))]
        taken = np.zeros(sum(counts), bool)
        taken[drawn] = True
        parts = np.split(taken, np.cumsum(counts)[:-1])
        rows = [each[part] for each, part in zip(rows, parts, strict=True)]
    return Subset(tuple(rows))

"""What specialists bring: the two tables of Hinton, Vinyals & Dean 2015, section 5.6, as pure functions.

The first compares test and conditional accuracy of the generalist alone and with specialists; the second splits the
test examples by the number of specialists that cover the correct class.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from kdscale.errors import UserError


@dataclass(frozen=True)
class Accuracies:
    """Shares of correct answers, 0 to 1; the conditional one is None where no example is of a special class."""

    test: float
    conditional: float | None


@dataclass(frozen=True)
class Coverage:
    """One row of the table by coverage."""

    specialists: int
    """How many specialists cover the correct class; the last row of a table may stand for this number and more."""
    examples: int
    before: int
    """Correct answers of the generalist alone."""
    after: int
    """Correct answers with specialists."""

    @property
    def change(self) -> int:
        return self.after - self.before

    @property
    def relative(self) -> float | None:
        """The change over the generalist's correct answers; None where it has none."""
        return self.change / self.before if self.before else None


def accuracies(q: Tensor, y: Tensor, special: Tensor) -> Accuracies:
    """Test accuracy, and accuracy on the examples of special classes with predictions restricted to these.

    Args:
        q: (N, C) probabilities or logits.
        y: (N,) int64 correct classes.
        special: (C,) bool, whether any specialist covers the class.

    Raises:
        UserError: there is no example.
    """
    if not len(y):
        raise UserError("specialists: there are no test examples to measure gains on; give the dataset a test split")
    test = float((q.argmax(1) == y).double().mean())
    chosen = special[y]
    if not chosen.any():
        return Accuracies(test, None)
    restricted = q[chosen].masked_fill(~special, -torch.inf)
    return Accuracies(test, float((restricted.argmax(1) == y[chosen]).double().mean()))


def by_coverage(before: Tensor, after: Tensor, y: Tensor, members: Tensor, most: int = 10) -> list[Coverage]:
    """The examples by the number of specialists that cover their correct class, ascending; rows without any are left out.

    Args:
        before: (N,) int64 answers of the generalist alone.
        after: (N,) int64 answers with specialists.
        y: (N,) int64 correct classes.
        members: (K, C) bool, of `ClassSets`.
        most: the last row holds the examples covered by as many specialists or more.
    """
    covered = members.sum(0)[y].clamp_max(most)
    right, righter = before == y, after == y
    return [
        Coverage(number, int(rows.sum()), int(right[rows].sum()), int(righter[rows].sum()))
        for number in range(most + 1)
        if (rows := covered == number).any()
    ]


def merged(tables: Sequence[Sequence[Coverage]]) -> list[Coverage]:
    """The tables of several seeds added up, row by row."""
    sums: dict[int, list[int]] = {}
    for row in (row for table in tables for row in table):
        total = sums.setdefault(row.specialists, [0, 0, 0])
        for i, value in enumerate((row.examples, row.before, row.after)):
            total[i] += value
    return [Coverage(number, *sums[number]) for number in sorted(sums)]


def purity(sets: Sequence[Sequence[int]], names: Sequence[str]) -> float | None:
    """How far class sets found from confusions follow groups that the classes' names show, such as Greek in Greek/alpha.

    The mean over the sets of the share of their most frequent group; None unless all names have a group.
    """
    if not all("/" in name for name in names):
        return None
    groups = [name.partition("/")[0] for name in names]
    shares = [max(Counter(groups[number] for number in one).values()) / len(one) for one in sets]
    return sum(shares) / len(shares)


def chance(sets: Sequence[Sequence[int]], names: Sequence[str], seed: int, draws: int = 100) -> float | None:
    """The mean purity of sets of the same sizes that are drawn at random; None unless all names have a group."""
    random = np.random.default_rng(seed)
    drawn = [[random.choice(len(names), len(one), replace=False).tolist() for one in sets] for _ in range(draws)]
    found = [value for each in drawn if (value := purity(each, names)) is not None]
    return sum(found) / len(found) if found else None


LEAST = 0.01
"""Part of all examples that a row must hold to count in the trend: the gain of a handful of examples is noise."""


def trend(table: Sequence[Coverage]) -> float | None:
    """Spearman's rank correlation of coverage and relative gain over the rows that hold at least `LEAST` of the examples.

    None for fewer than three such rows or gains all alike.
    """
    least = LEAST * sum(row.examples for row in table)
    points = [(row.specialists, row.relative) for row in table if row.relative is not None and row.examples >= least]
    if len(points) < 3 or len({gain for _, gain in points}) == 1:
        return None
    return float(spearmanr(*zip(*points, strict=True)).statistic)

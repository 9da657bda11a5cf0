"""The covariance of the generalist's predictions, gathered shard by shard (Hinton, Vinyals & Dean 2015, section 5.2).

Partial sums add, so shards are counted anywhere and merged in any order. `Covariance` keeps all C x C sums in float32
(900 MB at 15,000 classes); `Sketch` keeps C x r, in float64, and gives the leading directions, where that would not fit.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from kdscale.errors import UserError
from kdscale.seeds import derive, generator

CHUNK = 8192
"""Sparse rows whose products are formed at once."""
DENSE = 1 << 25
"""Probabilities of dense rows that are taken at once."""
MEMORY = 4 << 30
"""Bytes beyond which `gather` sketches."""
OVERSAMPLED = 32
"""Directions that a sketch carries beyond those it gives."""


class Gathered(Protocol):
    """What both kinds do."""

    classes: int
    rows: int

    def add(self, p: NDArray[Any]) -> None:
        """(N, C) probabilities."""
        ...

    def add_sparse(self, ids: NDArray[Any], p: NDArray[Any]) -> None:
        """(N, K) classes and their probabilities; all others count as 0. Slots with p = 0 are ignored."""
        ...

    def columns(self) -> NDArray[np.float32]:
        """(C, D) a row for each column of the covariance matrix, distances between them kept."""
        ...


class _Sums:
    """Count and mean; the second moment is a subclass's."""

    def __init__(self, classes: int):
        self.classes, self.rows = classes, 0
        self._total: NDArray[np.float64] = np.zeros(classes)

    def add(self, p: NDArray[Any]) -> None:
        if p.ndim != 2 or p.shape[1] != self.classes:
            raise UserError(f"covariance: predictions have shape {p.shape}, not (N, {self.classes}); give all classes")
        many = max(1, DENSE // self.classes)
        for start in range(0, len(p), many):
            self._take(np.ascontiguousarray(p[start : start + many], np.float32))

    def add_sparse(self, ids: NDArray[Any], p: NDArray[Any]) -> None:
        if ids.shape != p.shape or (ids.size and not 0 <= ids.min() <= ids.max() < self.classes):
            raise UserError(
                f"covariance: rows name classes outside 0 to {self.classes - 1}, or differ in shape; mend them"
            )
        for start in range(0, len(p), CHUNK):
            part, values = ids[start : start + CHUNK], p[start : start + CHUNK].astype(np.float32)
            ends = np.arange(len(part) + 1) * part.shape[1]
            x = sparse.csr_matrix((values.ravel(), part.ravel().astype(np.int32), ends), (len(part), self.classes))
            x.eliminate_zeros()
            self._take(x)

    def merge(self, other: Any) -> None:
        """Add the sums of other rows; the order of two makes no difference, not even in the last bit."""
        self.rows += other.rows
        self._total += other._total

    def _take(self, x: Any) -> None:
        self.rows += x.shape[0]
        self._total += np.asarray(x.sum(0, dtype=np.float64)).ravel()

    def _mean(self) -> NDArray[np.float64]:
        if not self.rows:
            raise UserError("covariance: no predictions were added; add those of the training split")
        return self._total / self.rows


class Covariance(_Sums):
    """All of it, in float32."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self._second = np.zeros((classes, classes), np.float32)

    def merge(self, other: "Covariance") -> None:
        super().merge(other)
        self._second += other._second

    def columns(self) -> NDArray[np.float32]:
        mean = self._mean()
        result = self._second / np.float32(self.rows)
        for row in _blocks(self.classes):
            result[row] -= np.outer(mean[row], mean).astype(np.float32)
        return result

    def _take(self, x: Any) -> None:
        super()._take(x)
        if not sparse.issparse(x):
            self._second += x.T @ x
            return
        product = (x.T @ x).tocsr()
        lengths = np.diff(product.indptr)
        for row in _blocks(self.classes):
            part = slice(product.indptr[row.start], product.indptr[row.stop])
            rows = np.repeat(np.arange(row.start, row.stop), lengths[row])
            self._second[rows, product.indices[part]] += product.data[part]  # the pairs are distinct


class Sketch(_Sums):
    """The leading directions, by the fixed-rank Nystrom method in one pass (Tropp et al. 2017, algorithm 3)."""

    def __init__(self, classes: int, rank: int = 256, seed: int = 0):
        super().__init__(classes)
        self._rank = min(rank, classes)
        width = min(classes, rank + OVERSAMPLED)
        random = generator(derive(seed, "sketch"))
        self._test = linalg.qr(random.standard_normal((classes, width)), mode="economic")[0]
        self._image: NDArray[np.float64] = np.zeros((classes, width))

    def merge(self, other: "Sketch") -> None:
        """Raises UserError where the other was sketched by another seed or rank."""
        if self._test.shape != other._test.shape or (self._test != other._test).any():
            raise UserError("covariance: sketches of different seeds or ranks cannot be merged; make them alike")
        super().merge(other)
        self._image += other._image

    def columns(self) -> NDArray[np.float32]:
        mean, test = self._mean(), self._test
        image = self._image / self.rows - np.outer(mean, mean @ test)
        shift = 1e-9 * max(float(np.linalg.norm(image)), 1e-30)
        image += shift * test
        core = test.T @ image
        core = (core + core.T) / 2
        values, vectors = linalg.eigh(core)
        root = vectors / np.sqrt(np.maximum(values, shift))
        left, singular, _ = linalg.svd(image @ root, full_matrices=False)
        strength = np.maximum(singular**2 - shift, 0)[: self._rank]
        result: NDArray[np.float32] = (left[:, : self._rank] * strength).astype(np.float32)
        return result

    def _take(self, x: Any) -> None:
        super()._take(x)
        self._image += x.T @ (x @ self._test)


def gather(classes: int, memory: int = MEMORY, rank: int = 256, seed: int = 0) -> Covariance | Sketch:
    """An empty covariance that fits: all of it if twice its size is within `memory` bytes, else a sketch."""
    return Covariance(classes) if 8 * classes**2 <= memory else Sketch(classes, rank, seed)


class InOrder:
    """Merges partial sums in the order of their numbers, whenever they come: rounding does not depend on who was first."""

    def __init__(self, whole: Covariance | Sketch):
        """`whole` is empty, and what the others are merged into; they are left as they are."""
        self.whole, self.merged = whole, 0
        self._waiting: dict[int, Any] = {}

    def add(self, number: int, part: Covariance | Sketch) -> None:
        """Take in part `number`, counted from 0."""
        self._waiting[number] = part
        while self.merged in self._waiting:
            self.whole.merge(self._waiting.pop(self.merged))
            self.merged += 1


def _blocks(classes: int) -> Iterator[slice]:
    for start in range(0, classes, 1024):
        yield slice(start, min(classes, start + 1024))

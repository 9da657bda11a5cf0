"""The top-k codec: the k largest logits of a row, and what all the others amount to.

Beside the k class numbers (in the narrowest type that holds them) and their logits, float16 and relative to the
largest, a row keeps the exact logsumexp of the remaining logits at each temperature that the recipe lists. So the
head's probabilities are right as they are, nothing is renormalised, and the mass of the tail is known: an objective
puts it into one bucket.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.logits.dense import lists
from kdscale.logits.rows import Sparse, check_temperature, narrowest
from kdscale.logits.selection import in_parts, largest

_CHUNK = 1 << 18
"""Values whose exponentials are taken at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class TopK:
    """k logits of a row and the logsumexp of the rest at each of the temperatures.

    A probability of the head errs by at most 2^-11 |z - max z| / T of itself, and by the same of the others' sum.
    """

    k: int = 32
    temperatures: list[float] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"logits.k: {self.k!r} is not a number of classes, 1 or more")
        if not isinstance(self.temperatures, list) or not self.temperatures:
            raise UserError(f"logits.temperatures: {self.temperatures!r} is not a list of the temperatures to serve")
        for temperature in self.temperatures:
            check_temperature(temperature)

    def describe(self) -> dict[str, Any]:
        return {"name": "topk", "k": self.k, "temperatures": [float(t) for t in self.temperatures]}

    @property
    def compression(self) -> str:
        return "zstd"

    @property
    def limit(self) -> float:
        return math.inf

    @property
    def draws_lots(self) -> bool:
        return False

    def bytes_per_row(self, classes: int) -> float:
        return min(self.k, classes) * (narrowest(classes).itemsize + 2) + 4 * len(self.temperatures)

    def encode(self, logits: NDArray[np.float32], draws: NDArray[np.float64]) -> dict[str, pa.Array]:
        classes = logits.shape[1]
        k = min(self.k, classes)
        z = np.ascontiguousarray(logits, np.float32)
        values, places = largest(z, min(k + 1, classes))
        head, ids = values[:, :k] - values[:, :1], places[:, :k]
        if classes > k:
            tails = _tails(z, values, ids, self.temperatures)
        else:
            tails = np.full((len(z), len(self.temperatures)), -np.inf, np.float32)
        return {
            "ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.astype(narrowest(classes)).ravel()), k),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(head.astype(np.float16).ravel()), k),
            "tails": pa.FixedSizeListArray.from_arrays(pa.array(tails.ravel()), len(self.temperatures)),
        }

    def decode(self, table: pa.Table, classes: int, temperature: float) -> Sparse:
        if temperature not in self.temperatures:
            served = ", ".join(f"{t:g}" for t in self.temperatures)
            raise UserError(
                f"the store's top-{self.k} codec serves T = {served}, not {temperature:g}; "
                f"add it to logits.temperatures, or take logits.codec dense, which serves any"
            )
        head = lists(table, "logits").astype(np.float32) / temperature
        tail = lists(table, "tails")[:, self.temperatures.index(temperature)]
        most = np.maximum(head.max(1), tail)[:, None]
        weights, rest = np.exp(head - most), np.exp(tail - most[:, 0])
        total = weights.sum(1) + rest
        return Sparse(lists(table, "ids").astype(np.int64), weights / total[:, None], rest / total)


def _tails(
    z: NDArray[np.float32], values: NDArray[np.float32], ids: NDArray[np.int64], temperatures: list[float]
) -> NDArray[np.float32]:
    """(N, temperatures) logsumexp of a row's other logits, relative to its largest.

    Exponentials are taken relative to the largest of the others, `values[:, k]`, so that none of theirs is lost; the
    head's, which may overflow, are then put to 0.
    """
    others = np.where(np.isfinite(values[:, -1:]), values[:, -1:], 0)
    shift = others - values[:, :1]
    tails = np.empty((len(z), len(temperatures)), np.float32)

    def work(part: slice) -> None:
        for column, temperature in enumerate(temperatures):
            powers = z[part] - others[part]
            if temperature != 1:
                powers *= np.float32(1 / temperature)
            with np.errstate(over="ignore", divide="ignore"):
                np.exp(powers, out=powers)
                np.put_along_axis(powers, ids[part], 0, 1)
                tails[part, column] = np.log(powers.sum(1)) + shift[part, 0] / temperature

    in_parts(work, len(z), _CHUNK // z.shape[1])
    return tails

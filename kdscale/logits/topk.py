"""The top-k codec: the k largest logits of a row, and what all the others amount to.

Beside the k class numbers (in the narrowest type that holds them) and their logits, float16 and relative to the largest,
a row keeps the exact logsumexp of the remaining logits at each temperature that the recipe lists. So the head's probabilities are right as
they are, nothing is renormalised, and the mass of the tail is known: an objective puts it into one bucket.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.logits.dense import lists
from kdscale.logits.rows import Sparse, narrowest


@dataclass(frozen=True)
class TopK:
    """k logits of a row and the logsumexp of the rest at each of the temperatures.

    A probability of the head errs by at most 2^-11 |z - max z| / T of itself, and by the same of the others' sum.
    """

    k: int = 32
    temperatures: list[float] = field(default_factory=lambda: [1.0])

    def describe(self) -> dict[str, Any]:
        return {"name": "topk", "k": self.k, "temperatures": [float(t) for t in self.temperatures]}

    def bytes_per_row(self, classes: int) -> float:
        return min(self.k, classes) * (narrowest(classes).itemsize + 2) + 4 * len(self.temperatures)

    def encode(self, logits: NDArray[np.float32], draws: NDArray[np.float64]) -> dict[str, pa.Array]:
        classes = logits.shape[1]
        k = min(self.k, classes)
        z = torch.from_numpy(np.ascontiguousarray(logits, np.float32))
        head, ids = z.topk(k, dim=1)
        largest = head[:, :1]
        head, rest = head - largest, (z - largest).scatter(1, ids, -torch.inf)
        tails = torch.stack([(rest / t).logsumexp(1) for t in self.temperatures], 1)
        return {
            "ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.numpy().astype(narrowest(classes)).ravel()), k),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(head.numpy().astype(np.float16).ravel()), k),
            "tails": pa.FixedSizeListArray.from_arrays(pa.array(tails.numpy().ravel()), len(self.temperatures)),
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

"""The sampled codec: a row's softened distribution as counts of a few draws.

Storing draws instead of the largest probabilities is unbiased (Sparse Logit Sampling, arXiv 2503.16870): the expected
count of a class over the number of draws is its probability, so the student's expected gradient is that of the full
distribution, tail included. Counts of members add up to the counts of their mean distribution, whatever the order.

The draws of a row are systematic (Madow 1949): one uniform number places n equally spaced points on the cumulative
distribution. Each class gets n p rounded up or down, which is unbiased as well and has far less variance than n
independent draws. That one number is a function of (key, view, member), so labelling again gives the same block.

A token is a class number and a count less one, side by side in the bits of one unsigned integer; a count that does not
fit takes several tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.logits.rows import Sparse, check_temperature

_AT_ONCE = 1 << 22
"""Logits whose cumulative distributions are in memory at once."""


@dataclass(frozen=True)
class Sampled:
    """Counts of `draws` draws of a row at one temperature."""

    draws: int = 12
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise UserError(f"logits.draws: {self.draws!r} is not a number of draws, 1 or more")
        check_temperature(self.temperature)

    def describe(self) -> dict[str, Any]:
        return {"name": "sampled", "draws": self.draws, "temperature": float(self.temperature)}

    @property
    def temperatures(self) -> list[float]:
        return [float(self.temperature)]

    @property
    def compression(self) -> str:
        return "zstd"

    @property
    def limit(self) -> float:
        return math.inf

    @property
    def draws_lots(self) -> bool:
        return True

    def bytes_per_row(self, classes: int) -> float:
        return self.draws * token_type(classes).itemsize + 4

    def encode(self, logits: NDArray[np.float32], draws: NDArray[np.float64]) -> dict[str, pa.Array]:
        rows, classes = logits.shape
        step = max(1, _AT_ONCE // classes)
        found = [self._counts(logits[i : i + step], draws[i : i + step], i) for i in range(0, max(rows, 1), step)]
        row, ids, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return {"tokens": pack(row, ids, counts, rows, classes)}

    def _counts(
        self, logits: NDArray[np.float32], draws: NDArray[np.float64], first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(row, class, count) of some rows, numbered from `first`."""
        z = logits.astype(np.float64) / self.temperature
        cumulative = np.exp(z - z.max(1, keepdims=True, initial=-np.inf)).cumsum(1)
        cumulative *= self.draws / cumulative[:, -1:]
        # points 0 + u, 1 + u, ..., n - 1 + u; how many lie below a class's upper end
        below = np.ceil(cumulative - draws[:, None]).clip(0, self.draws)
        below[:, -1] = self.draws
        counts = np.diff(below, prepend=0.0, axis=1).astype(np.int64)
        row, ids = np.nonzero(counts)
        return row + first, ids, counts[row, ids]

    def decode(self, table: pa.Table, classes: int, temperature: float) -> Sparse:
        if temperature != self.temperature:
            raise UserError(
                f"the store's sampled codec serves T = {self.temperature:g}, not {temperature:g}; "
                "make the store at that temperature, or take logits.codec dense, which serves any"
            )
        return unpack(table.column("tokens").combine_chunks(), classes)


def token_type(classes: int) -> np.dtype[Any]:
    """The narrowest unsigned type with room for a class number and at least four bits of count."""
    bits = max(1, int(classes - 1).bit_length())
    return np.dtype(np.uint16 if bits <= 12 else np.uint32)


def pack(
    row: NDArray[np.int64], ids: NDArray[np.int64], counts: NDArray[np.int64], rows: int, classes: int
) -> pa.Array:
    """Counts of (row, class), rows ascending, as one list of tokens a row."""
    kind = token_type(classes)
    bits = max(1, int(classes - 1).bit_length())
    most = 1 << (8 * kind.itemsize - bits)
    repeats = -(-counts // most)
    row, ids = np.repeat(row, repeats), np.repeat(ids, repeats)
    last = np.cumsum(repeats) - 1
    share = np.full(len(ids), most, np.int64)
    share[last] = counts - (repeats - 1) * most
    tokens = (ids.astype(np.uint64) | ((share - 1).astype(np.uint64) << np.uint64(bits))).astype(kind)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))


def counts_of(column: pa.Array, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lists of tokens as (row, class, count), a class at most once a row."""
    bits = max(1, int(classes - 1).bit_length())
    tokens = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint64)
    lengths = np.diff(column.offsets.to_numpy())
    row = np.repeat(np.arange(len(lengths)), lengths)
    ids = (tokens & np.uint64((1 << bits) - 1)).astype(np.int64)
    share = (tokens >> np.uint64(bits)).astype(np.int64) + 1
    return add(row, ids, share, classes)


def add(
    row: NDArray[np.int64], ids: NDArray[np.int64], counts: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Add up the counts of the same row and class: how members are merged, in any order."""
    places, inverse = np.unique(row * classes + ids, return_inverse=True)
    return (
        places // classes,
        places % classes,
        np.bincount(inverse, weights=counts, minlength=len(places)).astype(np.int64),
    )


def unpack(column: pa.Array, classes: int) -> Sparse:
    """Lists of tokens as estimated distributions: count over draws, no tail."""
    return to_sparse(*counts_of(column, classes), rows=len(column))


def to_sparse(row: NDArray[np.int64], ids: NDArray[np.int64], counts: NDArray[np.int64], rows: int) -> Sparse:
    """(row, class, count), rows ascending, as distributions on as many classes as the fullest row has."""
    lengths = np.bincount(row, minlength=rows)
    width = int(lengths.max(initial=1))
    starts = np.cumsum(lengths) - lengths
    slot = np.arange(len(row)) - np.repeat(starts, lengths)
    wide = np.zeros((rows, width), np.int64)
    p = np.zeros((rows, width), np.float32)
    wide[row, slot] = ids
    p[row, slot] = counts / np.bincount(row, weights=counts, minlength=rows)[row]
    return Sparse(wide, p, np.zeros(rows, np.float32), counted=True)

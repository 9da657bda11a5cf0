"""Other ways of storing soft labels, written from their papers, to set ours beside.

All of them store one teacher. For an ensemble they are given the members' mean distribution, which they could only
store once every member has labelled the sample; that is in their favour.

Each function takes (N, C) probabilities and returns the columns of an Arrow table and what a student is trained on.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdscale.logits.sampled import add
from kdscale.logits.selection import largest


@dataclass(frozen=True)
class Filled:
    """A distribution on K classes a row, and what every other class gets; slots with p = 0 are empty."""

    ids: NDArray[np.int64]
    p: NDArray[np.float32]
    fill: NDArray[np.float32]


Encoded = tuple[dict[str, pa.Array], Filled]


def tinyvit(p: NDArray[np.float32], k: int) -> Encoded:
    """Wu et al. 2022, TinyViT (arXiv 2207.10666), section 3.1: sparse soft labels.

    The k largest probabilities, float16, with their class numbers; each other class gets an equal share of the rest.
    The same rule is "marginal smoothing" in Shen & Xing 2022, FKD.
    """
    head, ids, columns = _head(p, k)
    rest = np.maximum(1 - head.sum(1), 0) / (p.shape[1] - k)
    return columns, Filled(ids, head, rest.astype(np.float32))


def fkd_renormalised(p: NDArray[np.float32], k: int = 5) -> Encoded:
    """Shen & Xing 2022, FKD (arXiv 2112.01528), "marginal re-norm": the k largest, scaled to sum to one."""
    head, ids, columns = _head(p, k)
    return columns, Filled(ids, head / head.sum(1, keepdims=True), np.zeros(len(p), np.float32))


def random_sampling(p: NDArray[np.float32], rounds: int, seed: int = 0) -> Encoded:
    """Sparse Logit Sampling (arXiv 2503.16870): random sampling with the proposal p^t at t = 1.

    Independent draws from p; at t = 1 importance weights are equal, so a class weighs as often as it was drawn. As many
    tokens a row as different classes were drawn, three bytes each: 17 bits of class number, 7 of count.
    """
    rows, classes = p.shape
    drawn = _draws(p, rounds, seed)
    row = np.repeat(np.arange(rows), rounds)
    return _tokens(*add(row, drawn.ravel(), np.ones(drawn.size, np.int64), classes), rows)


def random_sampling_of_tokens(p: NDArray[np.float32], tokens: int = 12, most: int = 127, seed: int = 0) -> Encoded:
    """The same in the paper's fixed size: draws go on until `tokens` classes were met, or `most` draws made.

    Rows of fewer classes are padded, so every row takes 3 bytes times `tokens`.
    """
    rows, classes = p.shape
    drawn = _draws(p, most, seed)
    order = np.argsort(drawn, 1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    first = np.where(np.diff(ordered, prepend=-1, axis=1) > 0, order, most)  # when each class was met
    last = np.partition(first, tokens - 1, 1)[:, tokens - 1]
    kept = np.arange(most) <= last[:, None]
    row = np.nonzero(kept)[0]
    row, ids, counts = add(row, drawn[kept], np.ones(len(row), np.int64), classes)
    columns, filled = _tokens(row, ids, counts, rows)
    lists = columns["tokens"]
    padded = np.zeros((rows, tokens, 3), np.uint8)
    slot = np.arange(len(row)) - np.asarray(lists.offsets)[row]
    padded[row, slot] = np.frombuffer(lists.values.buffers()[1], np.uint8).reshape(-1, 3)
    whole = pa.FixedSizeBinaryArray.from_buffers(pa.binary(3 * tokens), rows, [None, pa.py_buffer(padded)])
    return {"tokens": whole}, filled


def _head(p: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, pa.Array]]:
    values, ids = largest(p, k)
    head = values.astype(np.float16)
    columns = {
        "ids": pa.FixedSizeListArray.from_arrays(pa.array(ids.astype(np.uint16).ravel()), k),
        "p": pa.FixedSizeListArray.from_arrays(pa.array(head.ravel()), k),
    }
    return head.astype(np.float32), ids, columns


def _draws(p: NDArray[np.float32], rounds: int, seed: int) -> NDArray[np.int64]:
    """(N, rounds) independent draws of each row's classes."""
    rows, classes = p.shape
    ends = p.astype(np.float64).cumsum(1)
    ends /= ends[:, -1:]
    ends += np.arange(rows)[:, None]
    points = np.random.default_rng(seed).random((rows, rounds)) + np.arange(rows)[:, None]
    places = np.searchsorted(ends.ravel(), points, "right")
    ids: NDArray[np.int64] = np.minimum(places - classes * np.arange(rows)[:, None], classes - 1)
    return ids


def _tokens(row: NDArray[np.int64], ids: NDArray[np.int64], counts: NDArray[np.int64], rows: int) -> Encoded:
    packed = (ids | counts << 17).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    lengths = np.bincount(row, minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    buffer = pa.py_buffer(np.ascontiguousarray(packed))
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(3), len(packed), [None, buffer])
    slot = np.arange(len(row)) - offsets[row]
    wide, p = np.zeros((rows, lengths.max()), np.int64), np.zeros((rows, lengths.max()), np.float32)
    wide[row, slot] = ids
    p[row, slot] = counts
    p /= p.sum(1, keepdims=True)
    return {"tokens": pa.ListArray.from_arrays(pa.array(offsets), values)}, Filled(wide, p, np.zeros(rows, np.float32))

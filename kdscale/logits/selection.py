"""The k largest logits of each row, exactly and fast, for the codecs that keep only a head.

Selecting is most of what labelling with such a codec costs, and general selection looks at every value several times.
Here a row is first cut into some 4 k groups. The k-th largest of the groups' maxima is a bound that at least k values
reach, one in each of k groups, so no value below it is among the k largest; few more than k reach it on real rows. One
pass of comparisons finds those, and they alone are sorted. Nothing is assumed about rows: where many values tie with
the bound, the ties are cut down by the rule below.

The order is total: larger values first, of equal values the lower class number. So the outcome does not depend on the
machine, on threads, or on which rows come together. NumPy does it: its sorting and partitioning are vectorised.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 19
"""Values worked on at a time, so that their comparisons stay in the processor's cache."""
_LAYERS = 16
"""Most layers that are folded at once."""
_LOW = 0xFFFFFFFF


def largest(z: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest values of each row, and where they are.

    Args:
        z: (N, C) without NaN; -inf is a value like others. C below 2^31.
        k: 1 to C.

    Returns:
        (N, k) values and class numbers, in descending order of value, ties in ascending order of class.
    """
    rows, classes = z.shape
    assert 1 <= k <= classes
    values, ids = np.empty((rows, k), np.float32), np.empty((rows, k), np.int64)

    def work(part: slice) -> None:
        some = np.ascontiguousarray(z[part], np.float32)
        ids[part] = _sorted(some, k) if classes < 2 * k else _screened(some, k)
        values[part] = np.take_along_axis(some, ids[part], 1)

    in_parts(work, rows, _CHUNK // classes)
    return values, ids


def in_parts(work: Callable[[slice], None], rows: int, most: int) -> None:
    """Do work that is independent from row to row in parts of at most `most` rows.

    On one thread: two took turns with Python's lock and were slower (docs/LOG.md), and more come from more processes.
    """
    for start in range(0, rows, max(1, most)):
        work(slice(start, start + max(1, most)))


def _sorted(z: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Class numbers by sorting whole rows: where half of the classes or more are wanted."""
    keys = _keys(z) | np.arange(_LOW, _LOW - z.shape[1], -1)
    keys.sort(1)
    return _LOW - (keys[:, : -k - 1 : -1] & _LOW)


def _screened(z: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Class numbers by sorting the values that reach the bound."""
    rows, classes = z.shape
    bound = _bound(z, k)
    places = np.flatnonzero(z >= bound[:, None])
    ends = np.searchsorted(places, classes * np.arange(1, rows + 1))
    starts = np.concatenate([[0], ends[:-1]])
    crowded = np.flatnonzero(ends - starts > 8 * k)
    width = min(int((ends - starts).max()), 8 * k)

    # one row of keys a row of z, filled up with what sorts below everything
    first = classes * np.arange(rows)[:, None]
    slots = starts[:, None] + np.arange(width)
    ids = places[np.minimum(slots, len(places) - 1)] - first
    keys = np.where(slots < ends[:, None], _keys(z.take(first + ids)) | (_LOW - ids), np.iinfo(np.int64).min)
    keys.sort(1)
    chosen = _LOW - (keys[:, : -k - 1 : -1] & _LOW)

    for row in crowded:
        few = np.concatenate([np.flatnonzero(z[row] > bound[row]), np.flatnonzero(z[row] == bound[row])[:k]])
        few.sort()
        chosen[row] = few[_sorted(z[row, few][None], k)[0]]
    return chosen


def _bound(z: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """(N,) values that at least k of each row reach: the k-th largest maximum of disjoint groups of a row.

    A row is folded onto itself, a few layers at a time, until some 4 k maxima are left; what does not fill a layer at
    its end belongs to no group. That is a maximum of whole arrays, which processors do many values at a time.
    """
    maxima = z
    layers = max(2, min(_LAYERS, z.shape[1] // (4 * k)))
    while layers > 1:
        width = maxima.shape[1] // layers
        maxima = maxima[:, : layers * width].reshape(len(z), layers, width).max(1)
        layers = min(_LAYERS, width // (4 * k))
    bound: NDArray[np.float32] = np.partition(maxima, maxima.shape[1] - k, axis=1)[:, maxima.shape[1] - k]
    return bound


def _keys(z: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers that sort as the values do, with the lower 32 bits free to break ties."""
    bits = (z + np.float32(0)).view(np.int32)  # -0 becomes 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32

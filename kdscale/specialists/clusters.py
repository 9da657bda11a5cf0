"""Which classes go to which specialist: K-means on the columns of the covariance matrix of the predictions.

Classes that the generalist predicts together have columns alike (Hinton, Vinyals & Dean 2015, section 5.2); no label is
needed. The clusters' centroids then choose class sets of a fixed size.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError

Overlap = Literal["none", "nearest"]


def confusion_sets(
    columns: NDArray[np.float32],
    count: int,
    size: int,
    overlap: Overlap = "nearest",
    seed: int = 0,
    unit_length: bool = True,
) -> list[list[int]]:
    """Class sets of `count` specialists, `size` ascending class numbers each.

    Args:
        columns: (C, D), from `covariance`.
        overlap: nearest: each set takes the classes nearest to its centroid, so that sets may overlap and some classes
            may be in none. none: pairs of class and centroid are dealt from the nearest on, each class once.
        seed: of the K-means; the same seed gives the same sets.
        unit_length: scale columns to length one, so that a class that is seldom predicted is told from others by what
            it is confused with, not by how rare it is. The paper does not say.

    Raises:
        UserError: more sets or classes than there are, or an unknown policy.
    """
    classes = len(columns)
    if not 1 <= count <= classes or not 1 <= size < classes:
        raise UserError(f"specialists: {count} sets of {size} cannot be made of {classes} classes; ask for fewer")
    if overlap not in ("none", "nearest"):
        raise UserError(f"specialists: there is no overlap policy {overlap}; take none or nearest")
    if overlap == "none" and count * size > classes:
        raise UserError(
            f"specialists: {count} sets of {size} without overlap need {count * size} classes and there are {classes}; "
            "lower one of them or take the policy nearest"
        )
    points = _unit(columns) if unit_length else columns
    distance = _distances(points, _centroids(points, count, seed))
    if overlap == "nearest":
        order = np.argsort(distance, axis=0, kind="stable")[:size]
        return [sorted(order[:, number].tolist()) for number in range(count)]
    return _deal(distance, size)


def _unit(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(columns, axis=1, keepdims=True)
    result: NDArray[np.float32] = columns / np.maximum(length, np.float32(1e-30))
    return result


def _centroids(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, random_state=seed % 2**32, batch_size=4096, n_init=3, reassignment_ratio=0.01)
    centroids: NDArray[np.float32] = means.fit(points).cluster_centers_
    return centroids


def _distances(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, K) squared."""
    own = np.einsum("cd,cd->c", points, points)
    other = np.einsum("kd,kd->k", centroids, centroids)
    result: NDArray[np.float32] = own[:, None] - 2 * (points @ centroids.T) + other
    return result


def _deal(distance: NDArray[np.float32], size: int) -> list[list[int]]:
    """Each class to one set at most, the nearest pairs first, until every set is full."""
    sets: list[list[int]] = [[] for _ in range(distance.shape[1])]
    taken: set[int] = set()
    for pair in np.argsort(distance, axis=None, kind="stable").tolist():
        one, number = divmod(pair, distance.shape[1])
        if one not in taken and len(sets[number]) < size:
            sets[number].append(one)
            taken.add(one)
    return [sorted(one) for one in sets]

"""Multi-view data: every class has several features, and most samples show all of them, each in patches of its own.

The distribution of Allen-Zhu & Li's theory (section 2.1). A net that has learnt one feature of a class is right on every
multi-view sample, and on single-view samples only where they show the feature that it has learnt.

    data:
      source: kdscale.data.generated.multiview:load
      options: { k: 8, single: 0.01 }
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.generated import refuse_path
from kdscale.errors import UserError
from kdscale.seeds import generator


def features(classes: int, views: int, dimension: int, seed: int = 0) -> NDArray[np.float64]:
    """(C, V, d) orthonormal features, `views` for each class."""
    if classes * views > dimension:
        raise UserError(
            f"data.options: {classes} classes of {views} features do not fit into {dimension} dimensions; raise dimension"
        )
    square = generator(seed, 11).standard_normal((dimension, dimension))
    q, _ = np.linalg.qr(square)
    return q.T[: classes * views].reshape(classes, views, dimension)


def load(
    path: str | None = None,
    k: int = 8,
    views: int = 2,
    dimension: int = 200,
    patches: int = 6,
    train: int = 600,
    multi: int = 2000,
    single_views: int = 2000,
    single: float = 0.01,
    own: tuple[float, float] = (1.0, 1.4),
    missing: float = 0.05,
    others: tuple[float, float] = (0.2, 0.4),
    crowd: float = 1.5,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Arrays (N, P, d): a training split, a validation split of multi-view samples and a test split of single-view ones.

    Args:
        k: classes.
        train, multi, single_views: samples of the three splits.
        single: mu, the fraction of single-view training samples.
        own: strengths of the own class's features are uniform between these.
        missing: strength of the features that a single-view sample hardly shows.
        others: those of another class's feature, where one is present ("feature noise").
        crowd: features of other classes that a sample shows on average.
        noise: standard deviation of the Gaussian noise of a coordinate, times the root of the dimension.
    """
    refuse_path(path, "multi-view data")
    if patches <= views:
        raise UserError(
            f"data.options.patches: is {patches}, and each of {views} views needs one of its own; take more"
        )
    basis = features(k, views, dimension, seed)
    made: dict[str, Any] = {}
    for number, (split, count, share) in enumerate(
        (("train", train, single), ("validation", multi, 0.0), ("test", single_views, 1.0))
    ):
        random = generator(seed, 12, number)
        made[f"x_{split}"], made[f"y_{split}"] = _samples(
            random, basis, count, share, patches, (own[0], own[1]), missing, (others[0], others[1]), crowd, noise
        )
    return made


def _samples(
    random: np.random.Generator,
    basis: NDArray[np.float64],
    count: int,
    single: float,
    patches: int,
    own: tuple[float, float],
    missing: float,
    others: tuple[float, float],
    crowd: float,
    noise: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    classes, views, dimension = basis.shape
    y = np.arange(count) % classes
    strength = random.uniform(others[0], others[1], (count, classes, views))
    strength *= random.random((count, classes, views)) < crowd / (classes * views)
    mine = random.uniform(own[0], own[1], (count, views))
    lone = random.random(count) < single
    shown = random.integers(views, size=count)
    hidden = lone[:, None] & (np.arange(views) != shown[:, None])
    strength[np.arange(count), y] = np.where(hidden, missing, mine)
    order = random.permuted(np.tile(np.arange(patches), (count, 1)), axis=1)
    elsewhere = random.integers(views, patches, size=(count, classes * views))
    where = np.take_along_axis(order, elsewhere, 1).reshape(count, classes, views)
    where[np.arange(count), y] = order[:, :views]  # views in one patch would be learnt together
    x = random.standard_normal((count, patches, dimension)) * (noise / dimension**0.5)
    for patch in range(patches):
        x[:, patch] += np.einsum("ncv,cvd->nd", strength * (where == patch), basis)
    return x.astype(np.float32), y.astype(np.int64)

"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn: a dataset that is always there."""

from pathlib import Path
from typing import Any

import numpy as np

from kdscale.data.sources.arrays import ArraySource, Part

OPTIONS: frozenset[str] = frozenset()


def load(path: Path, options: dict[str, Any], image_size: int | None) -> ArraySource:
    """The digits as one pool, their values 0 to 16 spread over 0 to 255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return ArraySource([Part("digits", None, pixels, data.target)], image_size=image_size)

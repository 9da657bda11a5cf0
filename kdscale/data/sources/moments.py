"""Mean and standard deviation of a split, gathered a shard at a time and put together in the shards' order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.manifest import SampleSpec


class Moments:
    """Count, mean and squared deviation in float64, a channel each for images, one for arrays.

    Merging follows Chan, Golub & LeVeque 1983: no cancellation where the mean is far from zero. The result
    depends on the order of the merges, not on who did them.
    """

    def __init__(self, spec: SampleSpec):
        self.kind = spec.kind
        channels = spec.shape[0] if spec.kind == "image" else 1
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(channels)
        self.deviation: NDArray[np.float64] = np.zeros(channels)

    def add(self, x: NDArray[Any]) -> None:
        """One sample of the spec's shape."""
        values = x.reshape(len(self.mean), -1).astype(np.float64)
        mean = values.mean(axis=1)
        self._merge(values.shape[1], mean, np.square(values - mean[:, None]).sum(axis=1))

    def merge(self, other: "Moments") -> None:
        self._merge(other.count, other.mean, other.deviation)

    def result(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation, images in [0, 1]; one below float32's resolution becomes 1, being a divisor."""
        scale = 255.0 if self.kind == "image" else 1.0
        std = np.sqrt(self.deviation / max(1, self.count))
        varies = std > 1e-7 * np.abs(self.mean)
        return (self.mean / scale).tolist(), np.where(varies, std / scale, 1.0).tolist()

    def _merge(self, count: int, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> None:
        total = self.count + count
        if count == 0:
            return
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.deviation = self.deviation + deviation + np.square(delta) * (self.count * count / total)
        self.count = total

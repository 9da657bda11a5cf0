"""What a block says of its rows, whatever the codec: logits, or a sparse distribution at one temperature."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError


@dataclass(frozen=True)
class Logits:
    """Every logit of every row; the temperature stays open."""

    values: NDArray[np.floating[Any]]
    """(N, C)"""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64]) -> "Logits":
        return Logits(self.values[rows])


@dataclass(frozen=True)
class Sparse:
    """A distribution at one temperature on K classes a row, and the mass of all the others together.

    Slots that a row does not need have p = 0, so no slot needs a mask; rows with such slots have no tail.
    """

    ids: NDArray[np.int64]
    """(N, K) class numbers."""
    p: NDArray[np.float32]
    """(N, K) probabilities."""
    tail: NDArray[np.float32]
    """(N,) mass of the classes that are not named; 0 where the codec promises none."""
    counted: bool = False
    """Estimated from counts of draws, not exact."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> "Sparse":
        return Sparse(self.ids[rows], self.p[rows], self.tail[rows], self.counted)


def check_temperature(temperature: float) -> None:
    """Refuse what cannot divide a logit."""
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise UserError(f"temperature: {temperature!r} is not a positive number")


def narrowest(classes: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The narrowest unsigned type that holds the class numbers 0 to classes - 1."""
    return np.dtype(np.min_scalar_type(classes - 1))

"""Chance without history: seeds, generators and numbers that are functions of what they are for.

Nothing random in kdscale depends on what was drawn before, so work can be resumed, repeated and spread at will.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

LIMIT = 2**63
"""Seeds are below this, so that they fit every generator in use."""
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, a function of its arguments alone: ``derive(3, "dropout", step, rank)``."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % LIMIT


def generator(*key: int) -> np.random.Generator:
    """A counter-based generator that depends on its key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def uniforms(
    seed: int | NDArray[np.uint64], ids: NDArray[np.uint64], views: NDArray[np.int64], draws: int
) -> NDArray[np.float64]:
    """(N, draws) numbers in [0, 1), a function of (seed, id, view, draw) alone; one seed for all rows, or one for each.

    The finaliser is SplitMix64's (Steele, Lea & Flood 2014) applied to a counter.
    """
    with np.errstate(over="ignore"):
        state = _mix(ids ^ _mix(np.asarray(seed, np.uint64) + _GAMMA))
        state = _mix(state + _GAMMA * views.astype(np.uint64))
        counter = np.arange(1, draws + 1, dtype=np.uint64)
        bits = _mix(state[:, None] + _GAMMA * counter[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""Learning rates and temperatures as pure functions of the step, so that a resume needs no scheduler state."""

import math
from typing import Literal

Name = Literal["one_cycle", "cosine", "constant"]
Course = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, steps: int, peak: float, schedule: Name, warmup: float = 0.3) -> float:
    """The rate of a step in [0, steps).

    one_cycle climbs linearly to the peak over the first `warmup` of the steps and falls by a cosine to zero;
    cosine only falls; constant stays.
    """
    if schedule == "constant":
        return peak
    rise = warmup * steps if schedule == "one_cycle" else 0.0
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def temperature(step: int, steps: int, start: float, end: float, course: Course) -> float:
    """T of a step in [0, steps): `start` at the first, `end` at the last, along a line or half a cosine."""
    if course == "constant" or steps < 2:
        return start
    done = step / (steps - 1)
    if course == "cosine":
        done = 0.5 * (1 - math.cos(math.pi * done))
    return start + (end - start) * done

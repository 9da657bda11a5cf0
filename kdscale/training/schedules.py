"""Learning rates as pure functions of the step, so that a resume needs no scheduler state."""

import math
from typing import Literal

Name = Literal["one_cycle", "cosine", "constant"]


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

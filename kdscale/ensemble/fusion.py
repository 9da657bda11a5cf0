"""Fusion rules: from members' logits to one distribution.

Pure functions of (M, B, C) logits and a temperature T to (B, C) probabilities. Hinton, Vinyals & Dean 2015 name
both the arithmetic and the geometric mean of the members' predictions.
"""

from collections.abc import Callable

from torch import Tensor

Rule = Callable[[Tensor, float], Tensor]


def mean_probability(logits: Tensor, temperature: float) -> Tensor:
    """Arithmetic mean of softmax(z_m / T)."""
    return (logits.float() / temperature).softmax(-1).mean(0)


def mean_logit(logits: Tensor, temperature: float) -> Tensor:
    """softmax(mean z_m / T): the geometric mean of the members' distributions, normalised."""
    return (logits.float().mean(0) / temperature).softmax(-1)


RULES: dict[str, Rule] = {"mean_probability": mean_probability, "mean_logit": mean_logit}

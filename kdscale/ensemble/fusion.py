"""Fusion rules: from members' logits to one distribution.

Pure functions of (M, B, C) logits, a temperature T and (M,) weights that sum to 1 (None: all alike), to (B, C)
probabilities. Hinton,
Vinyals & Dean 2015 name both the arithmetic and the geometric mean of the members' predictions.
"""

from typing import Protocol

from torch import Tensor


class Rule(Protocol):
    """(M, B, C) logits, T, (M,) weights -> (B, C) probabilities."""

    def __call__(self, logits: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor: ...


def mean_probability(logits: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Arithmetic mean of softmax(z_m / T)."""
    return _mean((_wide(logits) / temperature).softmax(-1), weights)


def mean_logit(logits: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """softmax(mean z_m / T): the geometric mean of the members' distributions, normalised."""
    return (_mean(_wide(logits), weights) / temperature).softmax(-1)


RULES: dict[str, Rule] = {"mean_probability": mean_probability, "mean_logit": mean_logit}


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None or bool((weights == weights[0]).all()):
        return values.mean(0)
    return (values * weights.to(values)[:, None, None]).sum(0)


def _wide(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.element_size() >= 4 else logits.float()

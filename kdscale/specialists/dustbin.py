"""The dustbin's logit after training: specialists see their own classes far more often than the world shows them.

Half of a specialist's examples are of its own classes, whose share of all data, the prior pi, is mostly much smaller.
Its dustbin is therefore too small, and its logit is shifted once, when training is done (Hinton, Vinyals & Dean 2015,
section 5.3).
"""

import math
from typing import Literal

import torch
from torch import Tensor

from kdscale.errors import UserError

Rule = Literal["exact", "paper"]


def shift(prior: float, sampled: float = 0.5, rule: Rule = "exact") -> float:
    """What to add to the dustbin's logit.

    exact: Bayes' rule. Sampling multiplies the odds of "dustbin" against "own" by (1 - sampled) / sampled over
    (1 - prior) / prior; the shift log((1 - prior) / prior) - log((1 - sampled) / sampled) undoes it, which at one half is
    log((1 - prior) / prior).
    paper: log(sampled / prior), "the log of the proportion by which the specialist class is oversampled". It says nothing
    of the other classes, seen less often than they should be: it falls short of the exact shift by
    log((1 - prior) / (1 - sampled)), which at one half and a small prior is log 2.

    Args:
        prior: share of the specialist's own classes in the data it will meet.
        sampled: their share in the examples it was trained on.

    Raises:
        UserError: a share that is not strictly between 0 and 1, or an unknown rule.
    """
    for name, value in (("prior", prior), ("sampled", sampled)):
        if not 0 < value < 1:
            raise UserError(
                f"dustbin: the {name} share of a specialist's classes is {value}; it must be within 0 and 1"
            )
    if rule == "exact":
        return math.log((1 - prior) / prior) - math.log((1 - sampled) / sampled)
    if rule == "paper":
        return math.log(sampled / prior)
    raise UserError(f"dustbin: there is no rule {rule}; take exact or paper")


def corrected(logits: Tensor, by: float | Tensor) -> Tensor:
    """(..., S + 1) logits whose last, the dustbin's, is shifted; `by` is a number or of shape (...)."""
    last = (logits[..., -1] + by)[..., None]
    return torch.cat([logits[..., :-1], last], -1)


def priors(counts: Tensor, members: Tensor) -> Tensor:
    """(K,) float64: each specialist's share of the samples, from (C,) samples a class and (K, C) membership."""
    return members.double() @ counts.double() / counts.double().sum()

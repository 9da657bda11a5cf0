"""Divergences between a target p and a student q, cell by cell.

A cell is a class, or the bucket of all classes that a target does not name. Each divergence is a sum over cells, so two
things are all that is asked of it: the summand, and q dD/dq, from which the gradient with respect to the
student's logits follows (`kdscale.training.objectives.gradient`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(p, q, log q), of any one shape -> (summands, q dD/dq), of the same shape."""


def forward_kl(p: Tensor, q: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p, q) = sum p log(p / q), the soft term of Hinton, Vinyals & Dean 2015, section 2, less the entropy of p.

    Linear in p but for the entropy, so an unbiased estimate of p gives an unbiased gradient: q dD/dq = -p.
    """
    return _log(p).sub_(log_q).mul_(p), p.neg()


def reverse_kl(p: Tensor, q: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q, p) = sum q log(q / p): the student may leave out what the teacher holds possible, but not the reverse.

    q dD/dq = q (log(q / p) + 1), whose 1 drops out since q sums to 1. Where p is 0 it counts as the smallest number.
    """
    terms = (log_q - _log(p)).mul_(q)
    return terms, terms


def jensen_shannon(p: Tensor, q: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2 (Lin 1991, equation 4.1, equal weights): at most log 2.

    q dD/dq = q log(q / m) / 2.
    """
    log_m = _log((p + q).mul_(0.5))
    pull = (log_q - log_m).mul_(q).mul_(0.5)
    return _log(p).sub_(log_m).mul_(p).mul_(0.5).add_(pull), pull


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(torch.float32).tiny).log_()

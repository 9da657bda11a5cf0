"""Objectives: pure functions from logits and what is known of the samples to a loss.

Hinton, Vinyals & Dean 2015, section 2: with q_i = exp(z_i / T) / sum_j exp(z_j / T), the soft term is the
cross-entropy CE(p_T, q_T) with the teacher's softened distribution, times T squared so that its gradient keeps
its size when T changes; the hard term is the cross-entropy with the label at T = 1, with a considerably lower
weight. The soft term is computed as the divergence KL(p_T, q_T) = CE(p_T, q_T) - H(p_T): the gradient is the same,
and its value is 0 where the student matches.

`terms` has the terms and their sums, `several` those of a student with a head for each teacher, `divergences` what may stand in the place of the KL, `gradient` how loss and
gradient are computed together, `mixup` mixes batches with their targets.
"""

from kdscale.training.objectives.divergences import DIVERGENCES, Divergence
from kdscale.training.objectives.several import mimic_all
from kdscale.training.objectives.terms import (
    Losses,
    Objective,
    distillation,
    hard,
    labelled,
    soft,
    soft_divergence,
    sparse_divergence,
)

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "Losses",
    "Objective",
    "distillation",
    "hard",
    "labelled",
    "mimic_all",
    "soft",
    "soft_divergence",
    "sparse_divergence",
]

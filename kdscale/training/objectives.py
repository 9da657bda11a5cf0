"""Objectives: pure functions from logits and what is known of the samples to a loss.

Hinton, Vinyals & Dean 2015, section 2: with q_i = exp(z_i / T) / sum_j exp(z_j / T), the soft term is the
cross-entropy CE(p_T, q_T) with the teacher's softened distribution, times T squared so that its gradient keeps
its size when T changes; the hard term is the cross-entropy with the label at T = 1, with a considerably lower
weight. The soft term is computed as the divergence KL(p_T, q_T) = CE(p_T, q_T) - H(p_T): the gradient is the same,
and its value is 0 where the student matches.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch

Losses = dict[str, Tensor]
"""`loss` is what is minimised; other entries are its parts, for the record. All scalars, means over the batch."""

Objective = Callable[[Tensor, Batch], Losses]
"""((B, C) logits, batch) -> losses."""


def hard(logits: Tensor, batch: Batch) -> Losses:
    """Cross-entropy with the labels."""
    loss = F.cross_entropy(logits.float(), batch.y)
    return {"loss": loss, "hard": loss.detach()}


def soft_divergence(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T, softmax(z / T)), the mean over the batch.

    Args:
        logits: (B, C) z, the student's.
        targets: (B, C) p_T, probabilities already softened at T.
    """
    log_q = (logits.float() / temperature).log_softmax(-1)
    return F.kl_div(log_q, targets.float(), reduction="batchmean") * temperature**2


def distillation(temperature: float, hard_weight: float) -> Objective:
    """T^2 KL(p_T, q_T) + hard_weight * CE(y, q_1), with `batch.targets` = p_T."""

    def objective(logits: Tensor, batch: Batch) -> Losses:
        assert batch.targets is not None, "the batches of a student are joined with the store"
        soft = soft_divergence(logits, batch.targets, temperature)
        if hard_weight == 0:
            return {"loss": soft, "soft": soft.detach()}
        label = F.cross_entropy(logits.float(), batch.y)
        return {"loss": soft + hard_weight * label, "soft": soft.detach(), "hard": label.detach()}

    return objective

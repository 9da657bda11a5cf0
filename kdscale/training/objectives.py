"""Objectives: pure functions from logits and what is known of the samples to a loss.

Hinton, Vinyals & Dean 2015, section 2: with q_i = exp(z_i / T) / sum_j exp(z_j / T), the soft term is the
cross-entropy CE(p_T, q_T) with the teacher's softened distribution, times T squared so that its gradient keeps
its size when T changes; the hard term is the cross-entropy with the label at T = 1, with a considerably lower
weight. The soft term is computed as the divergence KL(p_T, q_T) = CE(p_T, q_T) - H(p_T): the gradient is the same,
and its value is 0 where the student matches.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns

Losses = dict[str, Tensor]
"""`loss` is what is minimised; other entries are its parts, for the record. All scalars, means over the batch."""

Objective = Callable[[Tensor, Batch], Losses]
"""((B, C) logits, batch) -> losses."""


def hard(logits: Tensor, batch: Batch) -> Losses:
    """Cross-entropy with the labels; for a packed batch, (N, B, C) logits and (N, B) labels, one for each of N members."""
    if logits.dim() == 3:
        each = F.cross_entropy(logits.float().flatten(0, 1), batch.y.flatten(), reduction="none")
        loss = each.view(batch.y.shape).mean(1)
    else:
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


def sparse_divergence(logits: Tensor, targets: Columns, temperature: float) -> Tensor:
    """T^2 KL at temperature T with targets that name a few classes, the mean over the batch and the groups, weighted if
    the groups have weights.

    All classes that a group does not name are one bucket on both sides, so nothing is renormalised and nothing that
    the codec left out is filled in.

    Args:
        logits: (B, C).
        targets: `ids`, `p` (B, G, K), `tail` (B, G), and `weight` (B, G), summing to 1, where groups do not count alike.
    """
    ids, p, tail = targets["ids"], targets["p"].float(), targets["tail"].float()
    log_q = (logits.float() / temperature).log_softmax(-1)
    log_head = log_q.gather(1, ids.flatten(1)).view(ids.shape)
    head = torch.special.xlogy(p, p) - p * log_head
    rest = (1 - log_head.exp().sum(-1)).clamp_min(torch.finfo(torch.float32).eps)
    bucket = torch.special.xlogy(tail, tail) - tail * torch.where(tail > 0, rest, 1.0).log()
    groups = head.sum(-1) + bucket
    mean: Tensor = groups.mean() if "weight" not in targets else (groups * targets["weight"]).sum(-1).mean()
    return mean * temperature**2


def soft(logits: Tensor, targets: Columns, temperature: float) -> Tensor:
    """The soft term for targets of any codec: `soft_divergence` or `sparse_divergence`."""
    if "ids" in targets:
        return sparse_divergence(logits, targets, temperature)
    return soft_divergence(logits, targets["p"], temperature)


def distillation(temperature: float, hard_weight: float) -> Objective:
    """T^2 KL(p_T, q_T) + hard_weight * CE(y, q_1), with the batch's targets, dense or sparse, as p_T."""

    def objective(logits: Tensor, batch: Batch) -> Losses:
        term = soft(logits, batch.targets, temperature)
        losses = {"loss": term, "soft": term.detach()}
        if hard_weight:
            label = F.cross_entropy(logits.float(), batch.y)
            losses |= {"loss": term + hard_weight * label, "hard": label.detach()}
        if "members" in batch.targets:  # of a live store: how many the targets are of
            losses["members"] = batch.targets["members"].mean()
        return losses

    return objective

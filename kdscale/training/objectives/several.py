"""Several teachers, each matched by itself: mimic-all (Zuchniak 2023), the objective of `kdscale.models.heads`.

    L = soft_weight sum_i w_i T^2 D(t_i, h_i) + hard_weight CE(y, sum_i w_i h_i(T = 1))

with teacher i's softened distribution t_i, head i's softmax h_i, and the teachers' weights w_i, which sum to 1 (1 / M in the
paper, whose T is 1 and whose weights are 1 - alpha and alpha). Targets keep the teachers apart as groups, (B, G, ...), in
their order; mixup puts the groups of the other samples behind them, so teacher i's are i, i + M, ...
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns
from kdscale.models.heads import log_mean_softmax
from kdscale.training.objectives import gradient
from kdscale.training.objectives.divergences import DIVERGENCES
from kdscale.training.objectives.gradient import COLUMNS, Terms
from kdscale.training.objectives.terms import Losses, Objective, labels_of, noted


def mimic_all(
    weights: Sequence[float],
    temperature: float | Callable[[int], float],
    hard_weight: float,
    soft_weight: float = 1.0,
    divergence: str = "forward_kl",
    smoothing: float = 0.0,
) -> Objective:
    """Of (B, M, C) logits and targets whose groups are the teachers'; the other arguments are those of `distillation`.

    Args:
        weights: (M,) of the heads in the mean that the labels are compared with, relative to each other.
    """
    share = torch.tensor(weights, dtype=torch.float64)
    log_weights = (share / share.sum()).log()

    def objective(logits: Tensor, batch: Batch) -> Losses:
        t = temperature(batch.step) if callable(temperature) else temperature
        terms = Terms(t, soft_weight, 0.0, DIVERGENCES[divergence], each=True)
        heads = [
            gradient.losses(z, of_teacher(batch.targets, number, len(weights)), None, terms)
            for number, z in enumerate(logits.unbind(1))
        ]
        losses = {"loss": _sum([head[0] for head in heads]), "soft": _sum([head[1] for head in heads])}
        if hard_weight:
            label = label_loss(log_mean_softmax(logits, log_weights.to(logits.device)), batch, smoothing)
            losses["loss"] = losses["loss"] + hard_weight * label
            losses["hard"] = label.detach()
        return noted(losses, batch, t if callable(temperature) else None)

    return objective


def of_teacher(targets: Columns, number: int, teachers: int) -> Columns:
    """The groups of one of so many teachers, with what they weigh in the whole."""
    return {name: column[:, number::teachers] for name, column in targets.items() if name in COLUMNS}


def label_loss(log_p: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross-entropy of (B, C) log-probabilities with the batch's labels, smoothed and mixed as in `labelled`."""
    own = labels_of(batch)
    loss = -log_p.gather(1, own.y[:, None])[:, 0]
    if own.other is not None and own.share is not None:
        share = own.share.to(loss.dtype)
        loss = share * loss - (1 - share) * log_p.gather(1, own.other[:, None])[:, 0]
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * log_p.mean(1)
    return loss.mean()


def _sum(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum()

"""The soft term, the hard term, and what a student minimises of them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns
from kdscale.training.objectives import gradient
from kdscale.training.objectives.divergences import DIVERGENCES
from kdscale.training.objectives.gradient import Labels, Terms

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


def labelled(smoothing: float = 0.0) -> Objective:
    """Cross-entropy with (1 - epsilon) y + epsilon / C, and where the batch is mixed, with both labels by their shares."""

    def objective(logits: Tensor, batch: Batch) -> Losses:
        z, own = logits.float(), labels_of(batch)
        loss = F.cross_entropy(z, own.y, reduction="none", label_smoothing=smoothing)
        if own.other is not None and own.share is not None:
            other = F.cross_entropy(z, own.other, reduction="none", label_smoothing=smoothing)
            loss = own.share * loss + (1 - own.share) * other
        return {"loss": loss.mean(), "hard": loss.detach().mean()}

    return objective


def soft_divergence(logits: Tensor, targets: Tensor, temperature: float, divergence: str = "forward_kl") -> Tensor:
    """T^2 D(p_T, softmax(z / T)), the mean over the batch.

    Args:
        logits: (B, C) z, the student's.
        targets: (B, C) p_T, probabilities already softened at T; they get no gradient.
    """
    return soft(logits, {"p": targets}, temperature, divergence)


def sparse_divergence(logits: Tensor, targets: Columns, temperature: float, divergence: str = "forward_kl") -> Tensor:
    """T^2 D at temperature T with targets that name a few classes, the mean over the batch and the groups, weighted if
    the groups have weights.

    All classes that a group does not name are one bucket on both sides, so nothing is renormalised and nothing that
    the codec left out is filled in.

    Args:
        logits: (B, C).
        targets: `ids`, `p` (B, G, K), `tail` (B, G), and `weight` (B, G), summing to 1, where groups do not count alike.
    """
    return soft(logits, targets, temperature, divergence)


def soft(logits: Tensor, targets: Columns, temperature: float, divergence: str = "forward_kl") -> Tensor:
    """The soft term for targets of any codec: `p` of `soft_divergence`, the columns of `sparse_divergence`, or, where
    the temperature is open, `logits` (B, G, C) of G members or fused sets and their `weight` (B, G), whose mean
    softmax at T is the target.

    Counts of draws estimate the target without bias, and so the gradient of forward_kl, which is linear in it; give
    them to no other divergence.
    """
    return gradient.losses(logits, targets, None, Terms(temperature, divergence=DIVERGENCES[divergence]))[0]


def distillation(
    temperature: float | Callable[[int], float],
    hard_weight: float,
    soft_weight: float = 1.0,
    divergence: str = "forward_kl",
    smoothing: float = 0.0,
    each: bool = False,
) -> Objective:
    """soft_weight T^2 D(p_T, q_T) + hard_weight CE(y, q_1), with the batch's targets, of any codec, as p_T.

    Hinton's relative weight is soft_weight 1 and a small hard_weight; the convex one is 1 - alpha and alpha.

    Args:
        temperature: T, or T of a step.
        divergence: D, a name of `DIVERGENCES`.
        smoothing: of the labels, as in `labelled`; what the teachers say stays as it is.
        each: the mean of the losses of the targets' groups, instead of the loss of their mean. Under forward_kl both have the
            same gradient and differ by a constant; and targets that name a few classes always have each group by itself.
    """

    def objective(logits: Tensor, batch: Batch) -> Losses:
        t = temperature(batch.step) if callable(temperature) else temperature
        terms = Terms(t, soft_weight, hard_weight, DIVERGENCES[divergence], smoothing, each)
        loss, term, label = gradient.losses(logits, batch.targets, labels_of(batch), terms)
        losses = {"loss": loss, "soft": term}
        if hard_weight:
            losses["hard"] = label
        return noted(losses, batch, t if callable(temperature) else None)

    return objective


def noted(losses: Losses, batch: Batch, temperature: float | None) -> Losses:
    """The losses, with what else belongs into the record: a temperature that changes, and how many members the targets are of."""
    if temperature is not None:
        losses["temperature"] = torch.full_like(losses["soft"], temperature)
    if "members" in batch.targets:  # of a live store
        losses["members"] = batch.targets["members"].mean()
    return losses


def labels_of(batch: Batch) -> Labels:
    """The labels of a batch, two a sample where it is mixed."""
    return Labels(batch.y, batch.targets.get("other_y"), batch.targets.get("share"))

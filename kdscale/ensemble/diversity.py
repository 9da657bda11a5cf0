"""Diversity: how much the members of an ensemble differ, over a whole split."""

import torch
from torch import Tensor

from kdscale.ensemble import uncertainty


def pairwise_disagreement(votes: Tensor) -> Tensor:
    """Of (M, N) votes, (M, M) the share of samples on which two members choose different classes."""
    return torch.stack([(votes != vote).double().mean(1) for vote in votes])


def mean_of_pairs(pairs: Tensor) -> float:
    """The mean over all two different members of a symmetric (M, M) table; 0 of a single member."""
    members = len(pairs)
    return float(pairs.sum() - pairs.diagonal().sum()) / max(1, members * (members - 1))


def summary(logits: Tensor) -> dict[str, float]:
    """Of (M, N, C) logits, means over the samples.

    Returns:
        `disagreement` of two members; in nats `entropy` of their mean distribution, `mean_entropy` of their own ones, and
        `mutual_information`, their difference, which is also the mean KL divergence of a member from the members' mean
        (the Jensen-Shannon divergence of the members).
    """
    each = uncertainty.measures(logits)
    means = {name: float(each[name].double().mean()) for name in ("entropy", "mean_entropy", "mutual_information")}
    return {"disagreement": mean_of_pairs(pairwise_disagreement(logits.argmax(-1))), **means}

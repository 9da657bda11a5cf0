"""How sure an ensemble is of each sample, and how much of its doubt is disagreement.

With p_m = softmax(z_m) and p their mean: the entropy H(p) is all the uncertainty there is; the mean of the H(p_m) is what
each member sees in the sample itself; their difference, the mutual information between prediction and member, is what
the members do not agree on (Depeweg et al. 2018, arXiv 1710.07283, section 3; Lakshminarayanan et al. 2017).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdscale.data.columns import Columns
from kdscale.errors import UserError
from kdscale.logits.rows import Logits, Sparse

AT_ONCE = 1 << 22
"""Logits of all members that are looked at together."""


def measures(logits: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Columns:
    """Of (M, B, C) logits, (B,) float32 each, entropies in nats; means over members by weights that sum to 1.

    Returns:
        `entropy` of the mean distribution, `mean_entropy` of the members, `mutual_information`, their difference (at
        least 0), and `disagreement`, the share of members whose vote is not the most frequent one.
    """
    share = torch.full((len(logits),), 1 / len(logits)) if weights is None else weights
    share = share.double()[:, None]
    z = logits.double() / temperature
    p, log_p = z.softmax(-1), z.log_softmax(-1)
    mean = (p * share[..., None]).sum(0)
    entropy = -torch.special.xlogy(mean, mean).sum(-1)
    mean_entropy = (-torch.where(p > 0, p * log_p, 0.0).sum(-1) * share).sum(0)
    return {
        "entropy": entropy.float(),
        "mean_entropy": mean_entropy.float(),
        "mutual_information": (entropy - mean_entropy).clamp_min(0).float(),
        "disagreement": disagreement(logits.argmax(-1)),
    }


def disagreement(votes: Tensor) -> Tensor:
    """Of (M, B) votes, (B,) the share of members that do not vote with the most frequent choice."""
    alike = (votes[:, None] == votes[None]).sum(0)  # (M, B): how many vote as member m does
    return 1 - alike.max(0).values.float() / len(votes)


def of_rows(rows: Sequence[Logits | Sparse], temperature: float, weights: Sequence[float] | None = None) -> Columns:
    """The measures that members' stored rows allow: all from logits, disagreement alone from top-k heads.

    Raises:
        UserError: sampled counts, whose entropies are biased and whose votes are chance.
    """
    full = [r.values for r in rows if isinstance(r, Logits)]
    if len(full) == len(rows):
        share = torch.tensor(weights if weights is not None else [1.0] * len(full), dtype=torch.float64)
        step = max(1, AT_ONCE // (len(full) * full[0].shape[1]))
        parts = [
            measures(torch.from_numpy(np.stack([z[i : i + step] for z in full])), temperature, share / share.sum())
            for i in range(0, max(len(full[0]), 1), step)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sparse = [r for r in rows if isinstance(r, Sparse)]
    if any(r.counted for r in sparse):
        raise UserError(
            "uncertainty: counts of a few draws say neither a member's entropy nor its vote; "
            "take logits.codec dense, or topk for the disagreement alone"
        )
    votes = [torch.from_numpy(r.ids).gather(1, torch.from_numpy(r.p).argmax(1, keepdim=True))[:, 0] for r in sparse]
    return {"disagreement": disagreement(torch.stack(votes))}

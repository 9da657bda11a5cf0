"""From the networks' logits to what the generalist and its specialists say together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdscale.specialists.dustbin import corrected
from kdscale.specialists.inference import Joint, joint
from kdscale.specialists.sets import ClassSets


def together(
    generalist: Tensor, specialists: Sequence[Tensor], shifts: Sequence[float], sets: ClassSets, n: int = 1
) -> Joint:
    """Joint inference on a batch, every specialist's dustbin shifted first.

    Args:
        generalist: (B, C) logits.
        specialists: (B, S_k + 1) logits of each, in the order of `sets`, the dustbin last.
        shifts: of each one's dustbin.

    Returns:
        q in float64, and its certificate.
    """
    longest = sets.classes.shape[1]
    own = generalist.new_zeros((len(generalist), len(specialists), longest), dtype=torch.float64)
    dustbin = own.new_zeros(own.shape[:2])
    for k, (logits, by) in enumerate(zip(specialists, shifts, strict=True)):
        p = corrected(logits.double(), by).softmax(1)
        own[:, k, : p.shape[1] - 1], dustbin[:, k] = p[:, :-1], p[:, -1]
    return joint(generalist.double().softmax(1), own, dustbin, sets, n)

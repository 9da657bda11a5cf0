"""Targets: what a student is given of its ensemble, fused from what the store holds.

Where all logits are stored, a target is one distribution, by any fusion rule. Where only a part is, the members'
mean probability can still be had without filling in what the codec left out: draws add up to the draws of the mean,
and top-k heads stay side by side, each with its own tail, since a class in one member's head may be in another's tail.
"""

from collections.abc import Sequence

import numpy as np
import torch

from kdscale.data.batches import Columns
from kdscale.ensemble.fusion import RULES
from kdscale.errors import UserError
from kdscale.logits.rows import Logits, Sparse


def fused(rows: Sequence[Logits | Sparse], rule: str, temperature: float) -> Columns:
    """The target of N rows at a temperature.

    Returns:
        `p` (N, C) where the store keeps all logits; else `ids`, `p` (N, G, K) and `tail` (N, G) of G groups whose
        losses are averaged.

    Raises:
        UserError: the rule needs logits that the codec left out.
    """
    logits = [r.values for r in rows if isinstance(r, Logits)]
    if len(logits) == len(rows):
        return {"p": RULES[rule](torch.from_numpy(np.stack(logits)), temperature)}
    check(rule)
    sparse = [r for r in rows if isinstance(r, Sparse)]
    if any(r.tail.any() for r in sparse):
        ids, p = (np.stack([getattr(r, name) for r in sparse], 1) for name in ("ids", "p"))
        tail = np.stack([r.tail for r in sparse], 1)
    else:
        ids = np.concatenate([r.ids for r in sparse], 1)[:, None]
        p = np.concatenate([r.p for r in sparse], 1)[:, None] / len(sparse)
        tail = np.zeros((len(p), 1), np.float32)
    return {"ids": torch.from_numpy(ids), "p": torch.from_numpy(p), "tail": torch.from_numpy(tail)}


def check(rule: str) -> None:
    """Refuse a rule that a codec which leaves classes out cannot serve."""
    if rule != "mean_probability":
        raise UserError(
            f"fusion: {rule} needs every logit, which only logits.codec dense keeps; "
            "take that codec, or fusion mean_probability"
        )

"""Mixup (Zhang et al. 2018, arXiv 1710.09412): each sample is mixed with another one, and so is what is known of both.

x = lam x_i + (1 - lam) x_j with lam from Beta(alpha, alpha). Labels stay a pair with shares. Dense distributions are
mixed as they are; targets that name a few classes, and logits whose temperature is open, stay side by side as groups
that weigh lam and 1 - lam, so that nothing is filled in.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns
from kdscale.seeds import derive, generator


def mixed(batch: Batch, lam: float, order: Tensor) -> Batch:
    """Sample i mixed with sample order[i], lam of the first.

    Args:
        order: (B,) int64.

    Returns:
        A batch whose targets also have `other_y` (B,), the second labels, and `share` (B,), how much the first count.
    """
    targets = {name: column for name, column in batch.targets.items() if name not in GROUPED and name != "p"}
    if "p" in batch.targets and "ids" not in batch.targets:
        targets["p"] = torch.lerp(batch.targets["p"][order], batch.targets["p"], lam)
    else:
        targets |= _pair({name: column for name, column in batch.targets.items() if name in GROUPED}, lam, order)
    targets["other_y"] = batch.y[order]
    targets["share"] = torch.full_like(batch.y, lam, dtype=torch.float32)
    return replace(batch, x=torch.lerp(batch.x[order], batch.x, lam), targets=targets)


GROUPED = ("ids", "p", "tail", "logits", "weight")
"""Columns with a dimension of groups, (B, G, ...), beside `ids` or `logits`."""


def _pair(target: Columns, lam: float, order: Tensor) -> Columns:
    """2 G groups: the sample's own, weighing lam times what they did, and the other's."""
    if not target:
        return {}
    first = next(iter(target.values()))
    own = target.get("weight", torch.full(first.shape[:2], 1 / first.shape[1], device=first.device))
    pair = {name: torch.cat([column, column[order]], 1) for name, column in target.items() if name != "weight"}
    return {**pair, "weight": torch.cat([own * lam, own[order] * (1 - lam)], 1)}


def mixing(batches: Callable[[int], Batch], alpha: float, seed: int, rank: int = 0) -> Callable[[int], Batch]:
    """The same batches, mixed: lam is a function of (seed, step), who is mixed with whom of (seed, step, rank).

    A rank mixes its own samples with each other.
    """

    def at(step: int) -> Batch:
        batch = batches(step)
        lam = float(generator(derive(seed, "mixup", step)).beta(alpha, alpha))
        order = generator(derive(seed, "mixup", step, rank)).permutation(len(batch.y))
        return mixed(batch, lam, torch.from_numpy(order).to(batch.y.device))

    return at

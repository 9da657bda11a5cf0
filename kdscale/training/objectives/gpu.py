"""The gradient of `gradient` as one Triton kernel, for GPUs: one program a row, which is read twice and written once.

The first pass keeps the largest logit and the sums of exponentials at T and, where labels count, at 1 as it goes (online softmax),
the second writes the gradient; the named classes are corrected behind it. Forward KL is all it knows; `gradient` in torch is its
reference. Importing this module needs triton, which comes with torch's builds for CUDA.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdscale.data.columns import Columns

BLOCK = 2048
"""Logits of a row that are worked on at once, at most."""


@triton.jit  # type: ignore[untyped-decorator]
def _row(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915
    z_ptr, stride, g_ptr, loss_ptr, classes,
    ids_ptr, p_ptr, tail_ptr, weight_ptr, groups, named,
    y_ptr, other_ptr, share_ptr,
    inverse, factor, hard, smoothing,
    SPARSE: tl.constexpr, HARD: tl.constexpr, PAIRS: tl.constexpr, ONE: tl.constexpr,
    BLOCK: tl.constexpr, NAMED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    z_row, g_row = z_ptr + row * stride, g_ptr + row * classes
    most = tl.full([], float("-inf"), tl.float32)
    total, total1, plain = 0.0, 0.0, 0.0
    mass, value = 0.0, 0.0
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < classes
        z = tl.load(z_row + at, mask=inside, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(most, tl.max(z, 0))
        total = total * tl.exp((most - larger) * inverse) + tl.sum(tl.exp((z - larger) * inverse), 0)
        if HARD:
            if not ONE:
                total1 = total1 * tl.exp(most - larger) + tl.sum(tl.exp(z - larger), 0)
            plain += tl.sum(tl.where(inside, z, 0.0), 0)
        if not SPARSE:
            p = tl.load(p_ptr + row * classes + at, mask=inside, other=0.0).to(tl.float32)
            known = tl.log(tl.maximum(p, 1.17549435e-38))
            value += tl.sum(p * (known - tl.where(inside, z, 0.0) * inverse), 0)
            mass += tl.sum(p, 0)
        most = larger
    if ONE:
        total1 = total
    lse = most * inverse + tl.log(total)
    if not SPARSE:
        value += lse * mass
    else:
        for group in range(0, groups):
            slot = row * groups + group
            share = tl.load(weight_ptr + slot)
            tail = tl.load(tail_ptr + slot)
            seen, some, part = 0.0, 0.0, 0.0
            for start in range(0, named, NAMED):
                at = start + tl.arange(0, NAMED)
                inside = at < named
                ids = tl.load(ids_ptr + slot * named + at, mask=inside, other=0)
                p = tl.load(p_ptr + slot * named + at, mask=inside, other=0.0)
                known = (ids >= 0) & (ids < classes)  # a class that is none makes the loss NaN
                z = tl.load(z_row + ids, mask=inside & known, other=float("nan")).to(tl.float32) * inverse
                seen += tl.sum(tl.where(inside, tl.exp(z - lse), 0.0), 0)
                some += tl.sum(p, 0)
                part += tl.sum(tl.where(inside, p * (tl.log(tl.maximum(p, 1.17549435e-38)) - (z - lse)), 0.0), 0)
            rest = tl.maximum(1.0 - seen, 1.1920929e-7)
            bucket = tl.where(tail > 0.0, tail / rest, 0.0)
            part += tl.where(tail > 0.0, tail * (tl.log(tl.maximum(tail, 1.17549435e-38)) - tl.log(rest)), 0.0)
            value += share * part
            mass += share * (some + tl.where(tail > 0.0, tail - bucket, 0.0))
    tl.store(loss_ptr + 2 * row, value)
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < classes
        z = tl.load(z_row + at, mask=inside, other=float("-inf")).to(tl.float32)
        g = tl.exp((z - most) * inverse) * (mass * factor / total)
        if HARD:
            g += tl.exp(z - most) * (hard / total1) - hard * smoothing / classes
        if not SPARSE:
            g -= tl.load(p_ptr + row * classes + at, mask=inside, other=0.0).to(tl.float32) * factor
        tl.store(g_row + at, g, mask=inside)
    tl.debug_barrier()  # all threads' stores lie behind what is added to them
    if SPARSE:
        for group in range(0, groups):
            slot = row * groups + group
            share = tl.load(weight_ptr + slot)
            tail = tl.load(tail_ptr + slot)
            seen = 0.0
            for start in range(0, named, NAMED):
                at = start + tl.arange(0, NAMED)
                inside = at < named
                ids = tl.load(ids_ptr + slot * named + at, mask=inside, other=0)
                inside = inside & (ids >= 0) & (ids < classes)
                z = tl.load(z_row + ids, mask=inside, other=float("-inf")).to(tl.float32) * inverse
                seen += tl.sum(tl.exp(z - lse), 0)
            bucket = tl.where(tail > 0.0, tail / tl.maximum(1.0 - seen, 1.1920929e-7), 0.0)
            for start in range(0, named, NAMED):
                at = start + tl.arange(0, NAMED)
                inside = at < named
                ids = tl.load(ids_ptr + slot * named + at, mask=inside, other=0)
                inside = inside & (ids >= 0) & (ids < classes)
                z = tl.load(z_row + ids, mask=inside, other=float("-inf")).to(tl.float32) * inverse
                p = tl.load(p_ptr + slot * named + at, mask=inside, other=0.0)
                tl.atomic_add(g_row + ids, share * factor * (tl.exp(z - lse) * bucket - p), mask=inside)
    if HARD:
        lse1 = most + tl.log(total1)
        y = tl.load(y_ptr + row)
        first = 1.0
        loss = lse1 - tl.load(z_row + y).to(tl.float32)
        full = hard * (1.0 - smoothing)
        if PAIRS:
            first = tl.load(share_ptr + row)
            other = tl.load(other_ptr + row)
            loss = first * loss + (1.0 - first) * (lse1 - tl.load(z_row + other).to(tl.float32))
            tl.atomic_add(g_row + other, -full * (1.0 - first))
        tl.atomic_add(g_row + y, -full * first)
        tl.store(loss_ptr + 2 * row + 1, (1.0 - smoothing) * loss + smoothing * (lse1 - plain / classes))


def losses(
    logits: Tensor,
    targets: Columns,
    labels: tuple[Tensor, Tensor | None, Tensor | None] | None,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `native.losses`, on the logits' device, of logits of any floating type with contiguous rows."""
    rows, classes = logits.shape
    gradient = torch.empty(rows, classes, device=logits.device, dtype=torch.float32)
    parts = torch.zeros(rows, 2, device=logits.device, dtype=torch.float32)
    sparse = "ids" in targets
    p = targets["p"].float().contiguous()
    groups, named = targets["ids"].shape[1:] if sparse else (0, 0)
    ids = targets["ids"].contiguous() if sparse else p  # p stands where there is nothing to point to
    tail = targets["tail"].float().contiguous() if sparse else p
    weight = p
    if sparse:
        weight = targets["weight"].float() if "weight" in targets else torch.full_like(tail, 1 / groups)
    y = other = share = p
    hard = labels is not None and hard_weight > 0
    pairs = False
    if labels is not None and hard:
        y = labels[0].contiguous()
        if labels[1] is not None and labels[2] is not None:
            other, share, pairs = labels[1].contiguous(), labels[2].float().contiguous(), True
    _row[(rows,)](
        logits, logits.stride(0), gradient, parts, classes,
        ids, p, tail, weight.contiguous(), groups, named,
        y, other, share,
        1 / temperature, soft_weight * temperature / rows, hard_weight / rows, float(smoothing),
        SPARSE=sparse, HARD=hard, PAIRS=pairs, ONE=temperature == 1,
        BLOCK=min(BLOCK, triton.next_power_of_2(classes)), NAMED=min(128, triton.next_power_of_2(max(1, named))),
    )  # fmt: skip
    soft, label = parts.mean(0)
    soft = soft * temperature**2
    return soft * soft_weight + label * hard_weight, soft, label, gradient.to(logits.dtype)

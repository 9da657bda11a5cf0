"""The loss and its gradient in one go: written once, in place, without copies of the logits.

With u = z / T and q = softmax(u), a divergence D that is a sum over cells (`divergences`) has

    dD/du_i = q_i (g_i - m),  g_i = dD/dq_i,  m = sum_j q_j g_j.

For a target that names K classes and puts all others into one bucket of mass t, whose student mass is r = 1 - sum of the
K q's, g_i is the same g_t for every class that is not named. So the whole row is q times one number, g_t - m,
and only the K classes are corrected, by q_k (g_k - g_t). Nothing is ever filled in.

The logits are worked through in parts that fit into a processor's cache; the gradient is made there from the softmax, in
the memory in which it is returned. Beyond that one tensor of the logits' size only a part's worth of
memory is used. For forward KL a kernel does the same row by row, where there is one (`kernels`: C on a CPU, Triton on a GPU); what is
written here in torch is their reference and does everything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdscale.data.columns import Columns
from kdscale.training.objectives import kernels
from kdscale.training.objectives.divergences import Divergence, forward_kl

PART = 1 << 20
"""Logits that are worked on together on a CPU."""
LEAST = torch.finfo(torch.float32).eps
"""The least mass of the bucket on the student's side."""


@dataclass(frozen=True)
class Labels:
    """Class numbers; with mixup, two a sample."""

    y: Tensor
    """(B,) int64"""
    other: Tensor | None = None
    """(B,) int64, the labels of the samples that were mixed in."""
    share: Tensor | None = None
    """(B,) how much `y` counts; `other` has the rest."""

    def rows(self, part: slice) -> "Labels":
        other, share = (column if column is None else column[part] for column in (self.other, self.share))
        return Labels(self.y[part], other, share)


@dataclass(frozen=True)
class Terms:
    """soft_weight T^2 D(p_T, q_T) + hard_weight CE(y, q_1)."""

    temperature: float
    soft_weight: float = 1.0
    hard_weight: float = 0.0
    divergence: Divergence = forward_kl
    smoothing: float = 0.0
    """Of the labels: epsilon of (1 - epsilon) y + epsilon / C (Szegedy et al. 2016, section 7)."""
    each: bool = False
    """sum_g w_g D(p_g, q) over the groups g of targets whose temperature is open, instead of D(sum_g w_g p_g, q)."""


def losses(logits: Tensor, targets: Columns, labels: Labels | None, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, soft, hard): the weighted sum, which has a gradient, and its parts without weights, which have none.

    All are means over the batch. Only the logits get a gradient, once: a second backward pass works it out anew.

    Args:
        logits: (B, C) of any floating type; worked on in float32, or float64 if they are.
        targets: as in `kdscale.training.objectives.terms.soft`.
        labels: needed where `terms.hard_weight` is not 0.
    """
    loss, soft, hard = _Losses.apply(logits, targets, labels, terms)  # type: ignore[no-untyped-call]
    return loss, soft, hard


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Columns, labels: Labels | None, terms: Terms
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        loss, soft, hard, ctx.gradient = _work(logits, targets, labels, terms, wanted)
        ctx.save_for_backward(logits)
        ctx.rest = targets, labels, terms
        ctx.mark_non_differentiable(soft, hard)
        ctx.set_materialize_grads(False)
        return loss, soft, hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor | None, *_: Tensor) -> tuple[Tensor | None, None, None, None]:
        if scale is None:
            return None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None  # given away, so that nobody needs a copy
        if gradient is None:
            (logits,) = ctx.saved_tensors
            targets, labels, terms = ctx.rest
            gradient = _work(logits, targets, labels, terms, True)[3]
            assert gradient is not None
        if scale.device.type != "cpu" or scale.item() != 1:
            gradient.mul_(scale)
        return gradient, None, None, None


def _work(
    logits: Tensor, targets: Columns, labels: Labels | None, terms: Terms, wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The weighted sum, the two means it is of, and its gradient if that is wanted."""
    kernel = kernels.of(logits, targets) if wanted and terms.divergence is forward_kl else None
    if kernel is not None:
        known = None if labels is None else (labels.y, labels.other, labels.share)
        return kernel(logits, targets, known, terms.temperature, terms.soft_weight, terms.hard_weight, terms.smoothing)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows = len(logits)
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if wanted else None
    soft, hard = logits.new_zeros((), dtype=dtype), logits.new_zeros((), dtype=dtype)
    for part in _parts(logits):
        z = logits[part].to(dtype)
        inside = gradient is not None and gradient.dtype == dtype
        q = gradient[part] if inside and gradient is not None else torch.empty_like(z)
        target = {name: targets[name][part] for name in COLUMNS if name in targets}
        chosen = None if labels is None else labels.rows(part)
        more_soft, more_hard = _rows(z, q, target, chosen, terms, rows)
        soft += more_soft
        hard += more_hard
        if gradient is not None and not inside:
            gradient[part] = q
    soft, hard = soft / rows * terms.temperature**2, hard / rows
    return soft * terms.soft_weight + hard * terms.hard_weight, soft, hard, gradient


COLUMNS = ("p", "ids", "tail", "weight", "logits")
"""What a target may consist of."""


def _parts(logits: Tensor) -> Iterator[slice]:
    rows, classes = logits.shape
    step = max(1, PART // classes) if logits.device.type == "cpu" else rows
    return (slice(start, start + step) for start in range(0, rows, step))


def _rows(
    z: Tensor, q: Tensor, target: Columns, labels: Labels | None, terms: Terms, rows: int
) -> tuple[Tensor, Tensor]:
    """Sums of both terms over some rows; `q` becomes their share of the gradient of the mean over `rows`."""
    t = terms.temperature
    factor = terms.soft_weight * t / rows  # T^2 of the loss over T of u = z / T
    plus = terms.hard_weight / rows if t == 1 else 0.0  # at T = 1 both terms have the same softmax
    _softmax(z, t, q)
    hard = z.new_zeros(())
    own = None
    if terms.hard_weight:
        assert labels is not None, "a hard term needs labels"
        own = q if t == 1 else torch.softmax(z, 1)
        hard = _label_loss(own, z, labels, terms.smoothing)
    one = _sparse if "ids" in target else _dense
    soft = one(z, q, target, terms, factor, plus)
    if own is not None and labels is not None:
        if t != 1:
            q.add_(own, alpha=terms.hard_weight / rows)
        _take_labels(q, labels, terms.smoothing, terms.hard_weight / rows)
    return soft, hard


def _softmax(z: Tensor, t: float, out: Tensor) -> None:
    torch.softmax(z if t == 1 else torch.mul(z, 1 / t, out=out), 1, out=out)


def _log_at(q: Tensor, z: Tensor, ids: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """softmax(z / t) and its logarithm at some classes of each row; the logarithm stands where the other underflows."""
    chosen = q.gather(1, ids)
    if float(chosen.amin()) > torch.finfo(torch.float32).tiny:
        return chosen, chosen.log()
    return chosen, z.gather(1, ids).div_(t).sub_(_logsumexp(z / t, q))


def _logsumexp(u: Tensor, q: Tensor) -> Tensor:
    """(B, 1) of u, where q = softmax(u) is at hand: one that is near the largest logit cannot underflow."""
    return u.amax(1, keepdim=True) - q.amax(1, keepdim=True).log()


def _sparse(z: Tensor, q: Tensor, target: Columns, terms: Terms, factor: float, plus: float) -> Tensor:
    """Of groups of named classes with a bucket each; `q` holds the softmax."""
    shape = target["ids"].shape
    ids = target["ids"].flatten(1)
    p, tail = target["p"].to(q.dtype), target["tail"].to(q.dtype)
    named, log_named = (each.view(shape) for each in _log_at(q, z, ids, terms.temperature))
    values, pull = terms.divergence(p, named, log_named)
    groups, whole = values.sum(-1), pull.sum(-1).neg_()
    if bool(tail.any()):  # else there is none: counts know no tail, and a head of all classes leaves nothing
        rest = (1 - named.sum(-1)).clamp_min_(LEAST)
        tail_values, tail_pull = terms.divergence(tail, rest, rest.log())
        bucket = tail > 0
        groups += torch.where(bucket, tail_values, 0.0)
        per_class = torch.where(bucket, tail_pull / rest, 0.0)  # g_t
        whole += per_class - per_class * rest
        pull = torch.addcmul(pull, named, per_class[..., None], value=-1)
    if "weight" in target or shape[1] > 1:
        weight = target["weight"].to(q.dtype) if "weight" in target else tail.new_full(shape[:2], 1 / shape[1])
        groups, whole, pull = groups * weight, whole * weight, pull * weight[..., None]
    q.mul_(whole.sum(1, keepdim=True).mul_(factor).add_(plus))
    q.scatter_add_(1, ids, pull.flatten(1) * factor)
    return groups.sum()


def _dense(z: Tensor, q: Tensor, target: Columns, terms: Terms, factor: float, plus: float) -> Tensor:
    """Of a distribution on all classes; `q` holds the softmax."""
    log_q = torch.mul(z, 1 / terms.temperature)
    log_q.sub_(_logsumexp(log_q, q))
    if terms.each and "logits" in target:
        values, pull = _each(q, log_q, target, terms)
    else:
        p = softened(target, terms.temperature).to(q.dtype) if "logits" in target else target["p"].to(q.dtype)
        values, pull = terms.divergence(p, q, log_q)
    q.mul_(pull.sum(1, keepdim=True).mul_(-factor).add_(plus)).add_(pull, alpha=factor)
    return values.sum()


def _each(q: Tensor, log_q: Tensor, target: Columns, terms: Terms) -> tuple[Tensor, Tensor]:
    """The weighted sums over groups of a divergence's summands and of q dD/dq."""
    sums = torch.zeros_like(q), torch.zeros_like(q)
    for group in range(target["logits"].shape[1]):
        p = (target["logits"][:, group].to(q.dtype) / terms.temperature).softmax(1)
        weight = target["weight"][:, group, None].to(q.dtype)
        for total, part in zip(sums, terms.divergence(p, q, log_q), strict=True):
            total.addcmul_(part, weight)
    return sums


def softened(target: Columns, temperature: float) -> Tensor:
    """(B, C) mean over G groups of softmax(v / T), of targets whose temperature is open.

    Args:
        target: `logits` v (B, G, C), and `weight` (B, G), summing to 1.
    """
    wide = target["logits"].to(torch.promote_types(target["logits"].dtype, torch.float32))
    p = (wide / temperature).softmax(-1)
    return p[:, 0] if p.shape[1] == 1 else (p * target["weight"].to(p.dtype)[..., None]).sum(1)


def _label_loss(q: Tensor, z: Tensor, labels: Labels, smoothing: float) -> Tensor:
    """The sum over rows of the cross-entropy with smoothed, mixed labels."""
    own = -_log_at(q, z, labels.y[:, None], 1.0)[1][:, 0]
    if labels.other is not None and labels.share is not None:
        share = labels.share.to(own.dtype)
        own = share * own - (1 - share) * _log_at(q, z, labels.other[:, None], 1.0)[1][:, 0]
    if not smoothing:
        return own.sum()
    even = _logsumexp(z, q)[:, 0] - z.mean(1)
    return ((1 - smoothing) * own + smoothing * even).sum()


def _take_labels(gradient: Tensor, labels: Labels, smoothing: float, factor: float) -> None:
    """Subtract the labels' distribution, the second half of q - y."""
    full = gradient.new_full((len(labels.y), 1), -factor * (1 - smoothing))
    if labels.other is None or labels.share is None:
        gradient.scatter_add_(1, labels.y[:, None], full)
    else:
        share = labels.share.to(full.dtype)[:, None]
        gradient.scatter_add_(1, labels.y[:, None], full * share)
        gradient.scatter_add_(1, labels.other[:, None], full * (1 - share))
    if smoothing:
        gradient.sub_(factor * smoothing / gradient.shape[1])

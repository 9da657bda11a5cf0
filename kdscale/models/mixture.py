"""A mixture of experts with a learnt softmax gate, as one network: the control that specialists are compared with.

Hinton, Vinyals & Dean 2015, section 6, compare with it in words: the gate is trained together with all experts, each of
which runs on every sample, where specialists train independently and only those that matter run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdscale.errors import UserError
from kdscale.recipe import ModelSpec
from kdscale.seeds import derive

LEAST = -40.0
"""Logarithms of shares count as no less: beside a sum of at least 1 float32 cannot tell, and exp takes up to 100 times longer
where its result underflows."""


class Mixture(nn.Module):
    """log of sum_k gate_k(x) softmax(expert_k(x)): (B, *shape) -> (B, classes) log-probabilities, which are logits too."""

    def __init__(self, experts: list[nn.Module], gate: nn.Module):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = _full(self.gate(x)).log_softmax(1)
        logits = [_full(expert(x)) for expert in self.experts]
        mixed: Tensor = _Mixed.apply(weights, *logits)  # type: ignore[no-untyped-call]
        return mixed


class _Mixed(torch.autograd.Function):
    """(B, K) log weights and K times (B, C) logits -> (B, C), exact however small a probability is.

    Expert by expert in the same memory: at K times C outputs a sample, fresh tensors cost more than what is put into them.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *logits: Tensor) -> Tensor:
        term = torch.empty_like(logits[0])
        tops = [z.amax(1, keepdim=True) for z in logits]
        sums = [
            _share(term.copy_(z).sub_(top)).sum(1, keepdim=True).log_() for z, top in zip(logits, tops, strict=True)
        ]
        shifts = [weights[:, number, None] - one for number, one in enumerate(sums)]
        largest, total = torch.full_like(term, -torch.inf), torch.zeros_like(term)
        for z, top, shift in zip(logits, tops, shifts, strict=True):
            largest.clamp_min_(term.copy_(z).sub_(top).add_(shift))
        for z, top, shift in zip(logits, tops, shifts, strict=True):
            total += _share(term.copy_(z).sub_(top).add_(shift).sub_(largest))
        ctx.save_for_backward(largest, total, *logits, *tops, *sums, *shifts)
        return total.log().add_(largest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        largest, total, *rest = ctx.saved_tensors
        count, scale, term = len(rest) // 4, gradient / total, torch.empty_like(total)
        of_weights, of_logits = [], []
        for z, top, one, shift in zip(*(rest[at : at + count] for at in range(0, 4 * count, count)), strict=True):
            share = _share((z - top).add_(shift).sub_(largest)).mul_(scale)
            of_weights.append(share.sum(1, keepdim=True))
            of_logits.append(share.sub_(_share(term.copy_(z).sub_(top).sub_(one)).mul_(of_weights[-1])))
        return torch.cat(of_weights, 1), *of_logits


def _full(logits: Tensor) -> Tensor:
    """In float32 at least, whatever autocast made of them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _share(logarithm: Tensor) -> Tensor:
    """exp in place."""
    return logarithm.clamp_min_(LEAST).exp_()


def mixture(
    shape: tuple[int, ...],
    classes: int,
    model: str | Mapping[str, Any],
    count: int = 5,
    gate: Sequence[int] = (64,),
) -> nn.Module:
    """`count` experts of one kind, mixed by a gate that sees the sample.

    Args:
        model: a name of the zoo or ``package.module:factory``, or a mapping of that ``name`` and the options.
        gate: widths of the gate's hidden layers.
    """
    from kdscale.models import zoo

    if not isinstance(count, int) or count < 2:
        raise UserError(f"model mixture: count is {count}; give the number of experts, at least 2")
    tree = {"name": model} if isinstance(model, str) else dict(model)
    if not isinstance(tree.get("name"), str):
        raise UserError(f"model mixture: model is {model}; give a name such as mlp, or its name and options")
    spec, first = ModelSpec(**tree), torch.initial_seed()
    experts = [zoo.build(spec, shape, classes, derive(first, "expert", number)) for number in range(count)]
    gating = ModelSpec.model_validate({"name": "mlp", "hidden": list(gate)})
    return Mixture(experts, zoo.build(gating, shape, count, derive(first, "gate")))

"""A mixture of experts with a learnt softmax gate, as one network: the control that specialists are compared with.

Hinton, Vinyals & Dean 2015, section 6, compare with it in words: the gate is trained together with all experts, each of
which runs on every sample, where specialists train independently and only those that matter run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.recipe import ModelSpec
from kdscale.seeds import derive

SAFE = 1e-30
"""Probabilities above it are mixed as they are, which takes half the time; with a smaller one among them, their logarithms are."""


class Mixture(nn.Module):
    """log of sum_k gate_k(x) softmax(expert_k(x)): (B, *shape) -> (B, classes) log-probabilities, which are logits too."""

    def __init__(self, experts: list[nn.Module], gate: nn.Module):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(x).log_softmax(1)
        logits = [expert(x) for expert in self.experts]
        p = torch.zeros_like(logits[0])
        for number, z in enumerate(logits):
            p = p + weights[:, number, None].exp() * z.softmax(1)
        if bool(p.min() > SAFE):
            return p.log()
        opinions = torch.stack([z.log_softmax(1) for z in logits], 1)
        return (weights[:, :, None] + opinions).logsumexp(1)


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

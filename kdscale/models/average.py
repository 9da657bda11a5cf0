"""The average of several networks as one network: (F1 + ... + FN) / N.

Trained as it is, it is the control of an ensemble, whose members are trained one by one: Allen-Zhu & Li 2023 find that it
gains nothing over a single network.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.recipe import ModelSpec
from kdscale.seeds import derive


class Average(nn.Module):
    """The mean of the logits of its networks."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)


def average(shape: tuple[int, ...], classes: int, model: str | Mapping[str, Any], count: int = 5) -> nn.Module:
    """`count` networks of one kind, whose logits are averaged.

    The first is the network that `model` alone would be under the same seed, the others are those of seeds derived from
    it, so that their initial weights are as independent as those of an ensemble's members.

    Args:
        model: a name of the zoo or ``package.module:factory``, or a mapping of that ``name`` and the options.
    """
    from kdscale.models import zoo

    if not isinstance(count, int) or count < 1:
        raise UserError(f"model average: count is {count}; give the number of networks, such as 5")
    tree = {"name": model} if isinstance(model, str) else dict(model)
    if not isinstance(tree.get("name"), str):
        raise UserError(f"model average: model is {model}; give a name such as mlp, or its name and options")
    spec, first = ModelSpec(**tree), torch.initial_seed()
    seeds = [first, *(derive(first, "average", number) for number in range(1, count))]
    return Average([zoo.build(spec, shape, classes, seed) for seed in seeds])

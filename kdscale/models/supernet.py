"""A layer on top of several finished networks: the super-net of Zuchniak 2023, which is then a teacher like any other.

The networks stay as they are, in weights and in statistics; what is trained is one linear layer that sees all their outputs.

    teachers:
      model:
        name: supernet
        model: { name: mlp, hidden: [128] }
        weights: [runs/a/teachers/seed-0/weights.safetensors, runs/a/teachers/seed-1/weights.safetensors]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.recipe import ModelSpec


class Supernet(nn.Module):
    """(B, *shape) -> (B, C) logits, a linear map of the networks' (B, M C) logits side by side."""

    def __init__(self, networks: Sequence[nn.Module], classes: int):
        super().__init__()
        self.networks = nn.ModuleList(networks).requires_grad_(False)
        self.layer = nn.Linear(len(networks) * classes, classes)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but that the networks keep to what they say in use: no dropout, no new statistics."""
        super().train(mode)
        self.networks.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            seen = torch.cat([network(x) for network in self.networks], 1)
        logits: Tensor = self.layer(seen)
        return logits


def supernet(
    shape: tuple[int, ...], classes: int, model: str | Mapping[str, Any], weights: Sequence[str] = ()
) -> nn.Module:
    """A layer over as many networks of one kind as there are files of weights.

    Args:
        model: a name of the zoo or ``package.module:factory``, or a mapping of that ``name`` and the options.
        weights: safetensors files of finished members. They are part of the super-net's own weights afterwards.

    Raises:
        UserError: no file is named, or one is not there or of another model.
    """
    from kdscale.models import zoo

    if not weights:
        raise UserError("model supernet: names no weights; give the safetensors files of finished members")
    spec = ModelSpec(**({"name": model} if isinstance(model, str) else dict(model)))
    networks = [zoo.build(spec, shape, classes, 0) for _ in weights]
    for network, path in zip(networks, weights, strict=True):
        try:
            network.load_state_dict(load_file(Path(path)))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"model supernet: {path} does not hold weights of {spec.name} ({reason})") from None
    return Supernet(networks, classes)

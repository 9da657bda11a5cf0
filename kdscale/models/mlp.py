"""Fully connected networks, such as Hinton's 784-1200-1200-10."""

from collections.abc import Sequence
from math import prod

from torch import nn

from kdscale.errors import UserError


def mlp(
    shape: tuple[int, ...],
    classes: int,
    hidden: Sequence[int] = (1200, 1200),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """ReLU layers of the given widths on the flattened sample."""
    if not hidden or any(not isinstance(width, int) or width < 1 for width in hidden):
        raise UserError(f"model mlp: hidden is {list(hidden)}; give the width of each layer, such as [1200, 1200]")
    layers: list[nn.Module] = [nn.Flatten()]
    if input_dropout:
        layers.append(nn.Dropout(input_dropout))
    before = prod(shape)
    for width in hidden:
        layers += [nn.Linear(before, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        before = width
    return nn.Sequential(*layers, nn.Linear(before, classes))

"""What channels of an intermediate layer respond to: which ones tell a class, and the patches of pictures that excite them most.

Allen-Zhu & Li 2023 (figure 5) look at a ResNet-34 in this way and see parts of cars: different channels, and different seeds,
look at different views of one class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdscale.errors import UserError


def layers(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """The names of the modules whose output is a map of channels, (B, channels, h, w), in the order in which they are computed."""
    seen: list[str] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1:
            seen.append(name)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(2, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def activations(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """(B, channels, h, w), what a layer gives for samples.

    Raises:
        UserError: there is no such layer, or its output is no map of channels.
    """
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        raise UserError(f"layer {layer}: the network has none of that name") from None
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        with torch.inference_mode():
            model.eval()(x)
    finally:
        hook.remove()
    if not seen or seen[-1].dim() != 4:
        raise UserError(f"layer {layer}: its output is no map of channels; take a convolution or a block of them")
    return seen[-1]


def separation(maps: Tensor, y: Tensor, classes: int) -> Tensor:
    """(classes, channels): how well a channel's largest activation tells a class from the others, as the area under the ROC curve.

    Args:
        maps: (N, channels, h, w).
        y: (N,) class numbers.
    """
    strongest = maps.amax((2, 3))
    ranks = strongest.argsort(0).argsort(0).double() + 1
    found = torch.full((classes, strongest.shape[1]), 0.5, dtype=torch.float64)
    for number in range(classes):
        own = y == number
        n, others = int(own.sum()), int((~own).sum())
        if n and others:
            found[number] = (ranks[own].sum(0) - n * (n + 1) / 2) / (n * others)
    return found


@dataclass(frozen=True)
class Patch:
    """A square part of a sample."""

    sample: int
    top: int
    left: int
    size: int


def patches(maps: Tensor, channel: int, side: int, size: int, count: int) -> list[Patch]:
    """The parts of the samples about the places where a channel is most active, the most active first, one a sample.

    Args:
        maps: (N, channels, h, w).
        side: of the samples, in pixels; size: of the patches.
    """
    own = maps[:, channel]
    strongest, where = own.flatten(1).max(1)
    found = []
    for sample in strongest.argsort(descending=True)[:count].tolist():
        row, column = divmod(int(where[sample]), own.shape[2])
        corner = [
            min(max(round((at + 0.5) * side / cells - size / 2), 0), side - size)
            for at, cells in ((row, own.shape[1]), (column, own.shape[2]))
        ]
        found.append(Patch(sample, corner[0], corner[1], size))
    return found

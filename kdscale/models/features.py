"""Penultimate features: what the last fully connected layer of a network gets."""

from typing import Any

import torch
from torch import Tensor, nn

from kdscale.errors import UserError


class NoFeatures(UserError):
    """A network has no penultimate features; says why."""


class Penultimate:
    """A network as a function from samples to its penultimate features: (B, *shape) -> (B, D).

    They are the input of the fully connected layer whose output is the network's own, seen by a forward hook.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        """
        Raises:
            NoFeatures: the network does not end in a fully connected layer on vectors.
        """
        last: list[tuple[Tensor, Tensor]] = []

        def seen(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            last[:] = [(arguments[0], output)]

        layers = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        hooks = [layer.register_forward_hook(seen) for layer in layers]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not last or last[0][1] is not logits:
            raise NoFeatures("the network does not end in a fully connected layer")
        features = last[0][0]
        if features.ndim != 2:
            raise NoFeatures("what the network's last layer gets is not a vector a sample")
        return features


def width(model: nn.Module, shape: tuple[int, ...]) -> int:
    """The number of penultimate features, D, of a network that takes samples of this shape."""
    with torch.inference_mode():
        return int(Penultimate(model.eval())(torch.zeros(2, *shape)).shape[1])


def output_layer(model: nn.Module, shape: tuple[int, ...]) -> str:
    """The name, within the network, of the fully connected layer whose output is the network's own.

    Raises:
        NoFeatures: the network does not end in one, or is itself that layer.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: seen.append((name, output)))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    training = model.training
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(2, *shape, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not seen or seen[-1][1] is not logits or not seen[-1][0]:
        raise NoFeatures("the network does not end in a fully connected layer")
    return seen[-1][0]

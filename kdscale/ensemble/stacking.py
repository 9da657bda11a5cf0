"""Forward passes of several models at once, on tensors that are stacked member by member.

`Products` knows chains of fully connected layers and computes each layer of all members by one batched matrix product.
On a CPU with one thread it gives the bits that each member alone would give: the products of a batch do not see each
other, and the backward pass multiplies in the order in which torch multiplies for a single layer. `Vectorised` takes any
model that `torch.func.vmap` can trace, to tolerance.

Dropout cannot draw inside either, since what is drawn must be what each member alone would draw; the masks come from
outside (`Draws`).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kdscale.training.engine import in_format, place, reseed

Tensors = dict[str, Tensor]
"""Parameters and buffers by name, (N, ...) each."""

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers that multiply by a mask, which can be drawn outside."""
ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.Identity),
)
"""Layers without parameters that treat each number by itself, so that a stack needs nothing special."""


TINY = 400
"""Multiplications in a product below which torch does not ask BLAS for a batch."""


class Forward(Protocol):
    """The stacked forward pass."""

    def __call__(self, tensors: Tensors, x: Tensor, masks: list[Tensor]) -> Tensor:
        """(N, B, *shape) samples, and a mask for each dropout in order -> (N, B, C) logits."""
        ...


def is_chain(model: nn.Module) -> bool:
    """Whether a model is nothing but flattening, fully connected layers, dropout and elementwise functions in a row."""
    seen: set[int] = set()
    for module in model.modules():
        exact, seen_before = type(module), id(module) in seen
        seen.add(id(module))
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        known = exact in (nn.Sequential, nn.Linear, nn.Dropout, *ELEMENTWISE) or _flattens(module)
        if hooked or seen_before or not known:
            return False
    layers = [layer for _, layer in _chain(model)]
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
    shared = len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))
    return first is not None and not shared and any(isinstance(layer, nn.Flatten) for layer in layers[:first])


class Products:
    """A chain (`is_chain`) for all members."""

    def __init__(self, model: nn.Module):
        self.layers = list(_chain(copy.deepcopy(model).train()))

    def __call__(self, tensors: Tensors, x: Tensor, masks: list[Tensor]) -> Tensor:
        drawn = iter(masks)
        for name, layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = _linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
            elif isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.Dropout):
                x = x * next(drawn)
            else:
                x = layer(x)
        return x


class Vectorised:
    """Any model, by `torch.func`; its buffers (running statistics, say) are stacked and updated member by member."""

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).train()
        self.masks: Iterator[Tensor] = iter(())
        for name, module in list(self.model.named_modules()):
            if type(module) in DROPOUTS:
                parent, _, own = name.rpartition(".")
                setattr(self.model.get_submodule(parent), own, _Masked(self))
        self._forward = vmap(self._one, randomness="error")

    def __call__(self, tensors: Tensors, x: Tensor, masks: list[Tensor]) -> Tensor:
        logits: Tensor = self._forward(tensors, x, masks)
        return logits

    def _one(self, tensors: Tensors, x: Tensor, masks: list[Tensor]) -> Tensor:
        self.masks = iter(masks)
        logits: Tensor = functional_call(self.model, tensors, (x,))
        return logits


class _Masked(nn.Module):
    """Stands where a dropout stood."""

    def __init__(self, owner: Vectorised):
        super().__init__()
        self.owner = [owner]  # in a list, so that it is no submodule

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.owner[0].masks)


class Draws:
    """Dropout masks as each member alone would draw them: by the same calls, from the same seed, in the same order."""

    def __init__(self, model: nn.Module, x: Tensor):
        """`x` is a batch of one member; the model runs on it once, to see what its dropouts get."""
        self.device = x.device
        self.calls: list[tuple[nn.Module, Tensor]] = []
        probe = copy.deepcopy(model).train()
        samples = in_format(x, place(probe, x.device))
        for module in probe.modules():
            if type(module) in DROPOUTS:
                module.register_forward_hook(self._record)
        with torch.no_grad():
            probe(samples)

    def _record(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        drop = type(module)(module.p).train()
        self.calls.append((drop, torch.ones_like(arguments[0])))

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int]) -> list[Tensor]:
        """One mask for each call of a dropout, (N, ...), scaled."""
        masks = [torch.empty(len(seeds), *ones.shape, dtype=ones.dtype, device=ones.device) for _, ones in self.calls]
        for member, seed in enumerate(seeds if masks else ()):
            reseed(seed, self.device)
            for mask, (drop, ones) in zip(masks, self.calls, strict=True):
                mask[member] = drop(ones)
        return masks


def _chain(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if isinstance(model, nn.Sequential):
        for name, child in model.named_children():
            yield from _chain(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, model


def _flattens(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, B, I), (N, O, I), (N, O) -> (N, B, O); under autocast in its type, as for a single layer."""
    if torch.is_autocast_enabled(x.device.type):
        low = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(low), weight.to(low), None if bias is None else bias.to(low)
    product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    """The stacked linear layer.

    Autograd's own backward of a batched product makes the weights' gradient transposed, which costs a copy and, for narrow
    layers, other bits than those of a single layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _products(x, weight.transpose(1, 2), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (g,) = gradients
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _products(g, weight) if to_x else None,
            _products(g.transpose(1, 2), x) if to_weight else None,
            g.sum(1) if to_bias else None,
        )


def _products(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, I, J) times (N, J, K), plus (N, K).

    On a CPU torch multiplies batches of tiny matrices in a loop of its own, which rounds unlike the BLAS that a single matrix
    goes to.
    """
    if a.shape[1] * a.shape[2] * b.shape[2] < TINY and a.device.type == "cpu":
        pairs = zip(a, b, strict=True)
        if bias is None:
            return torch.stack([x @ y for x, y in pairs])
        return torch.stack([torch.addmm(z, x, y) for (x, y), z in zip(pairs, bias, strict=True)])
    return torch.bmm(a, b) if bias is None else torch.baddbmm(bias.unsqueeze(1), a, b)

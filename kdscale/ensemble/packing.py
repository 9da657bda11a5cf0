"""Packing: members that are small enough to share a process are trained there together, step by step.

A packed member is still a member of its own: it has its seed, its checkpoints in the format of one trained alone, and
its weights in its own folder. Only the arithmetic is shared:

- fully connected chains on a GPU, or on a CPU with one thread, by batched matrix products;
- anything else on a GPU by `torch.func.vmap`;
- anything else on a CPU one member after the other: convolutions gain nothing from being stacked there (docs/LOG.md),
  and several threads round a batched product and a single one differently.

On a CPU a packed member therefore gets the bits of one trained alone, whoever shares its pack; on a GPU it gets the same
numbers to rounding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.ensemble.stacking import Draws, Forward, Products, Vectorised, is_chain
from kdscale.errors import UserError
from kdscale.recipe import Teachers
from kdscale.training.engine import (
    BOUNDED,
    Engine,
    TorchEngine,
    bound_norm,
    in_format,
    load_state,
    optimiser,
    place,
    reseed,
    save_state,
)
from kdscale.training.objectives import Losses, Objective

Way = Literal["products", "vmap", "in turn"]


class NotPackable(UserError):
    """Members cannot be trained together; each alone they can."""


def way(model: nn.Module, device: torch.device, threads: int) -> Way:
    """How members of this kind are packed."""
    if is_chain(model) and (device.type != "cpu" or threads == 1):
        return "products"
    return "in turn" if device.type == "cpu" else "vmap"


def engine(models: Sequence[nn.Module], device: torch.device, teachers: Teachers) -> Engine:
    """The engine that trains one member, or several as a pack."""
    options = (device, teachers.weight_decay, teachers.precision, teachers.max_norm, teachers.optimizer)
    if len(models) == 1:
        return TorchEngine(models[0], *options)
    how = way(models[0], device, torch.get_num_threads())
    if how == "in turn":
        return InTurn([TorchEngine(model, *options) for model in models])
    return Stacked(models, *options, way=how)


class InTurn:
    """Members that share a process and nothing else."""

    rank, world = 0, 1

    def __init__(self, models: Sequence[TorchEngine]):
        self.models, self.device = models, models[0].device
        self._seeds: Sequence[int] = ()

    def seed(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds

    def step(self, batch: Batch, objective: Objective, lr: float) -> Losses:
        losses = []
        for model, seed, x, y in zip(self.models, self._seeds, batch.x, batch.y, strict=True):
            model.seed([seed])
            losses.append(model.step(Batch(x, y), objective, lr))
        return {name: torch.stack([each[name].detach() for each in losses]) for name in losses[0]}


class Stacked:
    """Members in one vectorised model with one AdamW.

    Parameters are stacked for the products and the gradients; the optimiser sees each member's own slice of them, which
    keeps its arithmetic, its state and its checkpoints those of a member alone.
    """

    rank, world = 0, 1

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: torch.device,
        weight_decay: float = 0.0,
        precision: Literal["float32", "bfloat16"] = "float32",
        max_norm: float | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        way: Literal["products", "vmap"] = "vmap",
    ):
        """Options are those of `TorchEngine`."""
        self.device, self.autocast, self.max_norm = device, precision == "bfloat16", max_norm
        self._alone: Sequence[nn.Module] | None = [model.to(device).train() for model in models]
        self.parameters, self.slices = _stacked_parameters(models)
        self.buffers = _stack([dict(model.named_buffers()) for model in models])
        self.forward: Forward = Products(models[0]) if way == "products" else Vectorised(models[0])
        self.models = [_Member(self, model, i) for i, model in enumerate(models)]
        every = [p for name, own in self.slices.items() if self.parameters[name].requires_grad for p in own]
        self.optimizer = optimiser(optimizer, every, weight_decay)
        self.bounded = [name for name in _bounded(models[0]) if name in self.parameters]
        self._seeds: Sequence[int] = ()
        self._draws: Draws | None = None

    def seed(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds

    def step(self, batch: Batch, objective: Objective, lr: float) -> Losses:
        if self._draws is None:
            self._draws = self._checked(batch.x)
        losses = objective(self._logits(self._draws, batch.x), batch)
        torch.autograd.backward(losses["loss"], torch.ones_like(losses["loss"]))
        for name, stacked in self.parameters.items():
            if stacked.grad is not None:
                for own, gradient in zip(self.slices[name], stacked.grad.unbind(), strict=True):
                    own.grad = gradient
                stacked.grad = None
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.max_norm is not None:
            for name in self.bounded:
                bound_norm(self.parameters[name].flatten(0, 1), self.max_norm)
        return losses

    def _logits(self, draws: Draws, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.forward({**self.parameters, **self.buffers}, x, draws(self._seeds))

    @torch.no_grad()
    def _checked(self, x: Tensor) -> Draws:
        """The draws, once the stack has given what each member gives alone, running statistics included.

        Nothing else can tell a model that packing would change, such as one whose layers differ from seed to seed in what
        is neither parameter nor buffer.

        Raises:
            NotPackable: it has not.
        """
        assert self._alone is not None
        before = {name: buffer.clone() for name, buffer in self.buffers.items()}
        models, self._alone = self._alone, None
        cast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
        expected = []
        for i, model in enumerate(models):
            samples = in_format(x[i], place(model, self.device))
            model.load_state_dict(self.models[i].tensors())
            reseed(self._seeds[i], self.device)
            with cast:
                expected.append(model(samples))
        try:
            with cast:
                draws = Draws(models[0], x[0])
            together = self._logits(draws, x)
        except Exception as error:
            raise _refusal((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
        for i, model in enumerate(models):
            pairs = [(together[i], expected[i])]
            pairs += [(self.buffers[name][i], buffer) for name, buffer in model.named_buffers()]
            if not all(_close(a, b, 0.1 if self.autocast else 1e-3) for a, b in pairs):
                raise _refusal("it computes something else when it is stacked")
        for name, buffer in self.buffers.items():
            buffer.copy_(before[name])
        return draws


class _Member:
    """One member of a stack, saved and loaded as if it were trained alone."""

    rank, world = 0, 1

    def __init__(self, stack: Stacked, model: nn.Module, index: int):
        self.stack, self.index = stack, index
        names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self.names = {name: names[id(t)] for name, t in model.state_dict(keep_vars=True).items()}
        """The stacked tensor behind each name of the state: tied weights have two names."""

    def save(self, folder: Path) -> None:
        save_state(folder, self.tensors(), self._trained(), self.stack.optimizer)

    def load(self, folder: Path) -> None:
        load_state(folder, self.tensors(), self._trained(), self.stack.optimizer, self.stack.device)

    def weights(self) -> dict[str, Tensor]:
        return {name: t.cpu().clone().contiguous() for name, t in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The state, as views of the stack."""
        stack = {**self.stack.parameters, **self.stack.buffers}
        return {name: stack[own].detach()[self.index] for name, own in self.names.items()}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        stack = self.stack
        return [(name, own[self.index]) for name, own in stack.slices.items() if stack.parameters[name].requires_grad]


def check(models: Sequence[nn.Module], x: Tensor, teachers: Teachers) -> None:
    """Refuse models that cannot be stacked.

    Raises:
        NotPackable: says why.
    """
    stack = Stacked(models, x.device, precision=teachers.precision, way="products" if is_chain(models[0]) else "vmap")
    stack.seed(range(len(models)))
    stack._checked(x.expand(len(models), *x.shape))


def _refusal(why: str) -> NotPackable:
    return NotPackable(f"teachers.pack: this model cannot be packed ({why}); take teachers.pack=1")


def _stacked_parameters(models: Sequence[nn.Module]) -> tuple[dict[str, Tensor], dict[str, list[nn.Parameter]]]:
    """Leaves of shape (N, ...), and each member's slice of them, by name."""
    stacked, slices = {}, {}
    for name, tensor in _stack([dict(model.named_parameters()) for model in models]).items():
        trained = models[0].get_parameter(name).requires_grad
        stacked[name] = tensor.requires_grad_(trained)
        slices[name] = [nn.Parameter(own, requires_grad=trained) for own in tensor.detach().unbind()]
    return stacked, slices


def _stack(members: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    first = {name: (tensor.shape, tensor.dtype) for name, tensor in members[0].items()}
    if any({name: (tensor.shape, tensor.dtype) for name, tensor in other.items()} != first for other in members):
        raise _refusal("its layers differ from seed to seed")
    return {name: torch.stack([member[name].detach() for member in members]) for name in first}


def _bounded(model: nn.Module) -> list[str]:
    return [
        f"{name}.weight" if name else "weight" for name, module in model.named_modules() if isinstance(module, BOUNDED)
    ]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    finite = b.double()[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True))

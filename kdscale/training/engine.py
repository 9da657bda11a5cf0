"""What the fit loop asks of an engine, and the plain torch one that small teachers run on.

The DeepSpeed engine for students is in `deepspeed_engine`; both update weights by one global batch a step and save
their whole state into a folder.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.repeatable import settle
from kdscale.training.objectives import Losses, Objective


class Trained(Protocol):
    """One rank's share in a model that is being trained, as its checkpoints see it."""

    rank: int
    world: int

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs; every rank calls it, each with the same folder."""
        ...

    def load(self, folder: Path) -> None: ...

    def weights(self) -> dict[str, Tensor]:
        """The model's whole float32 state on the CPU; every rank calls it."""
        ...


class Engine(Protocol):
    """One rank's share in training one model, or several that are packed."""

    rank: int
    world: int
    device: torch.device

    @property
    def models(self) -> Sequence[Trained]: ...

    def seed(self, seeds: Sequence[int]) -> None:
        """Whatever is random in the next step follows from these, one for each model."""
        ...

    def step(self, batch: Batch, objective: Objective, lr: float) -> Losses:
        """Update by this rank's share of a global batch; the losses are this rank's own, (N,) for N packed models."""
        ...


def optimiser(
    name: Literal["adamw", "sgd"], trained: Iterable[nn.Parameter], weight_decay: float
) -> torch.optim.Optimizer:
    """Fused AdamW, or plain gradient descent, which keeps no state; the learning rate is set at every step."""
    if name == "sgd":
        return torch.optim.SGD(trained, lr=0.0, weight_decay=weight_decay)
    return torch.optim.AdamW(trained, lr=0.0, weight_decay=weight_decay, fused=True)


class TorchEngine:
    """A model on one device with an optimiser of torch's."""

    rank, world = 0, 1

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        weight_decay: float = 0.0,
        precision: Literal["float32", "bfloat16"] = "float32",
        max_norm: float | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
    ):
        """bfloat16 runs the forward pass under autocast; `max_norm` bounds the norm of every unit's incoming weights."""
        self.device = device
        self.format = place(model, device)
        self.model = model.train()
        trained = [parameter for _, parameter in self._trained()]
        self.optimizer = optimiser(optimizer, trained, weight_decay)
        self.autocast = precision == "bfloat16"
        self.max_norm = max_norm

    @property
    def models(self) -> "tuple[TorchEngine]":
        return (self,)

    def seed(self, seeds: Sequence[int]) -> None:
        reseed(seeds[0], self.device)

    def step(self, batch: Batch, objective: Objective, lr: float) -> Losses:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.model(in_format(batch.x, self.format))
        losses = objective(logits, batch)
        torch.autograd.backward(losses["loss"])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.max_norm is not None:
            bound_norms(self.model, self.max_norm)
        return losses

    def save(self, folder: Path) -> None:
        save_state(folder, self.model.state_dict(), self._trained(), self.optimizer)

    def load(self, folder: Path) -> None:
        load_state(folder, self.model.state_dict(), self._trained(), self.optimizer, self.device)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        return _untied({name: t.detach().cpu() for name, t in self.model.state_dict().items()})


NamedParameters = Iterable[tuple[str, nn.Parameter]]


def save_state(
    folder: Path, tensors: dict[str, Tensor], trained: NamedParameters, optimizer: torch.optim.Optimizer
) -> None:
    """Write a model's tensors and what the optimiser keeps of its trained parameters."""
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    for name, parameter in trained:
        tensors.update({f"{kind}.{name}": t for kind, t in optimizer.state[parameter].items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_untied(tensors), folder / "state.safetensors")


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them: tied weights have several names."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        apart[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    return apart


def load_state(
    folder: Path,
    tensors: dict[str, Tensor],
    trained: NamedParameters,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    """Read what `save_state` wrote, into a model's own tensors."""
    saved = load_file(folder / "state.safetensors", device=str(device))
    for name, tensor in tensors.items():
        tensor.copy_(saved[f"model.{name}"])
    for name, parameter in trained:
        if f"step.{name}" not in saved:
            continue  # never had a gradient
        optimizer.state[parameter] = {
            "step": saved[f"step.{name}"],
            "exp_avg": torch.empty_like(parameter).copy_(saved[f"exp_avg.{name}"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(saved[f"exp_avg_sq.{name}"]),
        }


def use_device(cpus: int, gpus: float) -> torch.device:
    """The device of this process, with torch set to `cpus` threads and to repeatable kernels.

    Ray does not hide the GPUs of a node from a process that asked for none, hence `gpus`.
    """
    settle()
    torch.set_num_threads(cpus)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def reseed(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on a device.

    `torch.manual_seed` does the same for every kind of device that torch knows, and for each that is not there it
    notes who asked, which takes longer than a small model's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def place(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Move a model to its device; the memory format its samples should have.

    channels_last where there are 2-d convolutions (on CPUs 1.3 to 2 times faster), else as it is.
    """
    model.to(device)
    wanted = format_of(model)
    if wanted == torch.channels_last:
        model.to(memory_format=wanted)  # type: ignore[call-overload]  # missing in torch's stubs
    return wanted


def format_of(model: nn.Module) -> torch.memory_format:
    """The memory format a model's samples should have, see `place`."""
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    return torch.channels_last if convolves else torch.preserve_format


def in_format(x: Tensor, wanted: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=wanted) if wanted == torch.channels_last and x.dim() == 4 else x


BOUNDED = (nn.Linear, nn.Conv2d)
"""Layers whose weights a norm bound applies to."""


def bound_norms(model: nn.Module, most: float) -> None:
    """Scale down the incoming weights of each unit whose Euclidean norm exceeds `most` (Hinton et al. 2012)."""
    for module in model.modules():
        if isinstance(module, BOUNDED):
            bound_norm(module.weight, most)


@torch.no_grad()
def bound_norm(weight: Tensor, most: float) -> None:
    """The same for one layer's weights, (units, ...)."""
    norms = weight.flatten(1).norm(dim=1).clamp_min(1e-12)
    weight.mul_((most / norms).clamp_max(1.0).view(-1, *[1] * (weight.dim() - 1)))

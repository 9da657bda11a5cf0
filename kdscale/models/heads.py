"""A network with one head for each teacher: the student of mimic-all (Zuchniak 2023).

The heads share everything but the last layer: the network is built for M times as many classes, M being the number of teachers,
and its outputs are read as M rows of logits. So any network of the zoo will do, and any of the user's own, whatever its last layer is.

    p(y | x) = sum_i w_i softmax(z_i(x)),  w_i the weights of the teachers in their ensemble

is what it says of a sample. While it is trained its outputs are the heads' logits, (B, M, C), for the objective to match each
with its own teacher; afterwards they are log p, (B, C), which serve as logits wherever a plain network's do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscale.errors import RunFailure, UserError
from kdscale.recipe import ModelSpec

NAME = f"{__name__}:heads"
"""Of the factory, in a `ModelSpec`. It is no name of the zoo: its outputs in training are for one objective alone."""


def spec(network: ModelSpec, weights: Sequence[float]) -> ModelSpec:
    """The student that has a head for each teacher; `weights` are the teachers', relative to each other."""
    return ModelSpec(name=NAME, model=network.model_dump(mode="json"), weights=[float(weight) for weight in weights])


class Heads(nn.Module):
    """(B, *shape) -> (B, M, C) logits of each head while training, (B, C) log of their mean softmax otherwise."""

    log_weights: Tensor

    def __init__(self, network: nn.Module, classes: int, weights: Sequence[float]):
        super().__init__()
        self.network, self.classes = network, classes
        share = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("log_weights", (share / share.sum()).log().float())

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.network(x)
        z = z.reshape(len(z), -1, self.classes)
        return z if self.training else log_mean_softmax(z, self.log_weights)


def log_mean_softmax(z: Tensor, log_weights: Tensor) -> Tensor:
    """(B, C) log sum_i w_i softmax(z_i) of (B, M, C) logits, in float32 at least; (M,) log w_i, the w_i summing to 1."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return (wide.log_softmax(2) + log_weights.to(wide.dtype)[:, None]).logsumexp(1)


def heads(
    shape: tuple[int, ...], classes: int, model: Mapping[str, Any], weights: Sequence[float] = (1.0,) * 5
) -> nn.Module:
    """A head for each weight on the trunk of `model`, a mapping of its name and options."""
    from kdscale.models import zoo

    network = zoo.build(ModelSpec(**model), shape, len(weights) * classes, torch.initial_seed())
    return Heads(network, classes, weights)


PREFIX = "network."
"""Of the network's tensors among those of `Heads`."""


def folded(
    state: Mapping[str, Tensor], network: ModelSpec, shape: tuple[int, ...], classes: int, weights: Sequence[float]
) -> dict[str, Tensor]:
    """The plain network whose logits are the weighted mean of the heads', from the tensors of a `Heads`.

    The mean of last layers that are linear has the mean of their logits, so its distribution is the heads' normalised geometric
    mean instead of their arithmetic one, at a single head's cost.

    Raises:
        UserError: the mean of the network's tensors does not compute the mean of its heads.
    """
    from kdscale.models import zoo

    share = torch.tensor(weights, dtype=torch.float64)
    share /= share.sum()
    plain = zoo.build(network, shape, classes, 0).eval()
    many = zoo.build(network, shape, len(weights) * classes, 0).eval()
    wide = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    narrow = {}
    for name, wanted in plain.state_dict().items():
        tensor = wide[name]
        if tensor.shape != wanted.shape:
            if tensor.shape[0] != len(weights) * wanted.shape[0] or tensor.shape[1:] != wanted.shape[1:]:
                raise _no_fold(network)
            each = tensor.double().reshape(len(weights), *wanted.shape)
            tensor = torch.tensordot(share, each, 1).to(tensor.dtype)
        narrow[name] = tensor.contiguous()
    many.load_state_dict(wide)
    plain.load_state_dict(narrow)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = torch.tensordot(many(x).reshape(len(x), len(weights), classes), share.float(), ([1], [0]))
        found = plain(x)
    if not expected.isfinite().all():
        raise RunFailure("student.fold: the trained network's outputs are not finite")
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        raise _no_fold(network)
    return narrow


def _no_fold(network: ModelSpec) -> UserError:
    return UserError(
        f"student.fold: the heads of {network.name} cannot be folded into one, since its last layer is not linear in its weights; "
        "leave student.fold out"
    )

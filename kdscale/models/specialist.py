"""A specialist's network: the generalist, with an output for each of its own classes and one dustbin for all others.

Hinton, Vinyals & Dean 2015, section 5.3: "initialized with the weights of the generalist model". The paper does not say what
the dustbin's weights start from. Here its logit is by default the logsumexp of the outputs of all other classes, which
are kept: before the first step the specialist then says exactly what the generalist says, and training can only move it
from there.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.models.features import NoFeatures, output_layer
from kdscale.recipe import ModelSpec

Dustbin = Literal["all", "one"]


class Merged(nn.Module):
    """The output layer: (B, D) features -> (B, S + 1) logits, the dustbin last."""

    def __init__(self, own: int, outputs: nn.Linear):
        """`outputs` has the own classes first, then whatever the dustbin is the logsumexp of."""
        super().__init__()
        self.own, self.outputs = own, outputs

    def forward(self, features: Tensor) -> Tensor:
        logits = self.outputs(features)
        return torch.cat([logits[:, : self.own], logits[:, self.own :].logsumexp(1, keepdim=True)], 1)


def specialised(
    generalist: nn.Module, shape: tuple[int, ...], own: Sequence[int], dustbin: Dustbin = "all"
) -> nn.Module:
    """The network that a specialist's training starts from: (B, *shape) -> (B, S + 1), the dustbin last.

    The own classes' logits are the generalist's.

    Args:
        generalist: ends in a fully connected layer on vectors; it is left as it is.
        dustbin: all: the logsumexp of the other classes' outputs. one: a single output, as in the paper, which costs less
            and cannot be that logsumexp; it starts at its bound by Jensen's inequality, the outputs' mean plus the log of
            their number, exact where they are equal.

    Raises:
        UserError: it does not end so.
    """
    model = deepcopy(generalist)
    try:
        name = output_layer(model, shape)
    except NoFeatures as error:
        raise UserError(f"specialists: {error}; choose a student.model that does, such as mlp") from None
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    others = torch.ones(old.out_features, dtype=torch.bool)
    others[list(own)] = False
    weight, bias = (
        None if t is None else _rows(t.detach(), list(own), others, dustbin) for t in (old.weight, old.bias)
    )
    assert weight is not None
    new = nn.Linear(old.in_features, len(weight), bias=bias is not None)
    with torch.no_grad():
        new.weight.copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
            if dustbin == "one":
                new.bias[-1] += math.log(int(others.sum()))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Merged(len(own), new.to(old.weight.device)))
    return model


def specialist(
    shape: tuple[int, ...], classes: int, model: Mapping[str, Any], own: Sequence[int], dustbin: Dustbin = "all"
) -> nn.Module:
    """The same from a description, for finished weights to be put into: a model of the zoo.

    Args:
        model: ``name`` and options of the generalist.
        own: the specialist's classes.
    """
    from kdscale.models import zoo

    return specialised(zoo.build(ModelSpec(**model), shape, classes, 0), shape, own, dustbin)


def _rows(tensor: Tensor, own: list[int], others: Tensor, dustbin: Dustbin) -> Tensor:
    rest = tensor[others.to(tensor.device)]
    return torch.cat([tensor[own], rest if dustbin == "all" else rest.mean(0, keepdim=True)])

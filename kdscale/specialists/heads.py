"""A specialist begins as the generalist: its weights, with an output for each own class and one for the dustbin.

Hinton, Vinyals & Dean 2015, section 5.3: "initialized with the weights of the generalist model".
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.models.features import NoFeatures, output_layer


def specialised(generalist: nn.Module, shape: tuple[int, ...], own: list[int]) -> nn.Module:
    """The network that a specialist's training starts from: (B, *shape) -> (B, S + 1), the dustbin last.

    The own classes' logits are the generalist's. A linear output cannot be the logsumexp of the other logits; the
    dustbin's is its bound by Jensen's inequality, their mean plus the log of their number, exact where they are equal.

    Args:
        generalist: ends in a fully connected layer on vectors; it is left as it is.

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
    others[own] = False
    new = nn.Linear(old.in_features, len(own) + 1, bias=old.bias is not None)
    with torch.no_grad():
        new.weight.copy_(_rows(old.weight, own, others))
        if old.bias is not None:
            new.bias.copy_(_rows(old.bias, own, others))
            new.bias[-1] += math.log(int(others.sum()))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new.to(old.weight.device))
    return model


def _rows(tensor: Tensor, own: list[int], others: Tensor) -> Tensor:
    return torch.cat([tensor[own], tensor[others.to(tensor.device)].mean(0, keepdim=True)])

"""Models that are linear in fixed features of a random two-layer net f(x) = a . relu(W x + b): random features, or its tangent.

The tangent kernel's features are the gradients of f with respect to both layers (Jacot et al. 2018),

    d f / d a_r = relu(w_r x + b_r),        d f / d w_r = a_r 1[w_r x + b_r > 0] (x, 1),

and what is trained is a linear map of them to the classes. W, b and a follow the seed and stay as they were drawn, so a seed is a
set of features: what an ensemble of such models can do, and one of them cannot be taught, is the contrast that Allen-Zhu & Li 2023
(section 1, "ensemble in deep learning is very different from ensemble in random feature mappings") draw to deep nets.
"""

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from kdscale.errors import UserError

Kind = Literal["tangent", "random"]


class Tangent(nn.Module):
    """(B, *shape) -> (B, C) logits, linear in the features of a net that is never trained."""

    inner: Tensor
    outer: Tensor

    def __init__(self, inputs: int, classes: int, width: int, features: Kind):
        super().__init__()
        self.features = features
        self.register_buffer("inner", torch.randn(width, inputs + 1) * (2 / (inputs + 1)) ** 0.5)
        self.register_buffer("outer", torch.randn(width).sign())
        self.readout = nn.Linear(width * (inputs + 2 if features == "tangent" else 1), classes)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def seen(self, x: Tensor) -> Tensor:
        """(B, F) the features of samples."""
        flat = x.flatten(1)
        flat = torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
        before = flat @ self.inner.T
        if self.features == "random":
            return before.relu()
        slopes = (before > 0).to(flat.dtype) * self.outer
        return torch.cat([before.relu(), (slopes[:, :, None] * flat[:, None, :]).flatten(1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.seen(x))
        return logits


def tangent(shape: tuple[int, ...], classes: int, width: int = 6, features: Kind = "tangent") -> nn.Module:
    """Logistic regression on the features of a random net of `width` hidden units.

    Args:
        features: tangent: the gradients of both layers; random: the hidden units alone.
    """
    if width < 1 or features not in ("tangent", "random"):
        raise UserError(f"model tangent: width {width}, features {features}; give 1 at least, and tangent or random")
    return Tangent(prod(shape), classes, width, features)

"""The network of Allen-Zhu & Li's theory: patchwise neurons with a smoothed ReLU, output weights fixed at one.

    F_i(X) = sum over neurons r and patches p of sReLU(<w_ir, x_p>)                                     (section 2 of the paper)

Every class has neurons of its own, and nothing else is trained than the neurons' weights. From a tiny initialisation the
power q makes a race of what a neuron sees: what it is nearest to at first, it learns, and it then has no reason to learn more.
"""

from math import prod

import torch
from torch import Tensor, nn

from kdscale.errors import UserError


def smoothed_relu(z: Tensor, degree: int, rho: float) -> Tensor:
    """0 for z <= 0, z^q / (q rho^(q-1)) up to rho, and z - (1 - 1/q) rho beyond: a ReLU with a smooth bend of degree q."""
    low = z.clamp(0, rho)
    return low**degree / (degree * rho ** (degree - 1)) + (z - rho).clamp_min(0)


class Smoothed(nn.Module):
    """(B, P, d) patches -> (B, C) logits."""

    def __init__(self, classes: int, width: int, neurons: int, degree: int, rho: float, std: float):
        super().__init__()
        self.degree, self.rho = degree, rho
        self.weight = nn.Parameter(torch.randn(classes, neurons, width) * std / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        classes, neurons, width = self.weight.shape
        seen = x.flatten(0, 1) @ self.weight.reshape(-1, width).T
        active = smoothed_relu(seen, self.degree, self.rho)
        return active.view(len(x), -1, classes, neurons).sum((1, 3))


def smoothed(
    shape: tuple[int, ...], classes: int, neurons: int = 6, degree: int = 3, rho: float = 0.3, std: float = 0.02
) -> nn.Module:
    """The network for samples of P patches, each of d numbers.

    Args:
        neurons: m, of each class.
        degree: q; the theory needs 3 at least.
        rho: where the bend of the smoothed ReLU ends.
        std: of the Gaussian initial weights, times the root of d.
    """
    if len(shape) != 2:
        raise UserError(
            f"model smoothed: takes samples of (patches, numbers), and these are {shape}; use another model"
        )
    if neurons < 1 or degree < 2 or rho <= 0:
        raise UserError(
            f"model smoothed: neurons {neurons}, degree {degree}, rho {rho}; give 1, 2 and above 0 at least"
        )
    return Smoothed(classes, prod(shape[1:]), neurons, degree, rho, std)

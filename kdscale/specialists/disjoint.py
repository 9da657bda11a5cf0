"""Joint inference where an image's active specialists share no class: one scalar root an image.

With A_m the mass that generalist and specialist m give to m's classes, d_m the dustbin and A_0 the generalist's mass
on all other classes, stationarity gives q_i = a_i / (lambda + mu_m) with mu_m = d_m / (1 - Q_m), hence the quadratic
lambda Q_m^2 - (lambda + A_m + d_m) Q_m + A_m = 0. Its root times lambda, y_m, is concave in lambda, so that
h(lambda) = lambda - A_0 - sum of y_m is convex; h(0) < 0 and h(A_0 + sum of A_m) >= 0, and Newton's method from there
falls to the root without ever crossing it. No line search, no bracket.
"""

import torch
from torch import Tensor

STEPS = 100


def solve(own: Tensor, dustbin: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Denominators of the optimum.

    Args:
        own: (B, M) float64, A_m; 0 for a specialist that is not there.
        dustbin: (B, M) float64, d_m; 0 for a specialist that is not there.
        rest: (B,) float64, A_0 > 0.

    Returns:
        (B,) lambda, by which the other classes' a_i is divided; (B, M) what the classes of m are divided by;
        (B,) residual |sum of q - 1|, the only condition that is not met by construction; Newton steps taken.
    """
    multiplier = rest + own.sum(1)
    moving, steps = True, 0
    while moving and steps < STEPS:
        steps += 1
        root, offset = _root(multiplier, own, dustbin)
        y = 2 * own * multiplier[:, None] / (multiplier[:, None] + own + dustbin + root).clamp_min(_TINY)
        slope = (1 - offset / root.clamp_min(_TINY)) / 2  # of y; 0 where own is 0, as offset = root there
        step = (multiplier - rest - y.sum(1)) / (1 - slope.sum(1)).clamp_min(_TINY)
        following = torch.maximum(multiplier - step, rest)  # q of the rest is at most 1
        moving = bool(((following - multiplier).abs() > 4e-16 * multiplier).any())
        multiplier = following
    root, _ = _root(multiplier, own, dustbin)
    inside = (multiplier[:, None] + own + dustbin + root) / 2
    residual = ((own / inside).sum(1) + rest / multiplier - 1).abs()
    return multiplier, inside, residual, steps


_TINY = 1e-300


def _root(multiplier: Tensor, own: Tensor, dustbin: Tensor) -> tuple[Tensor, Tensor]:
    offset = multiplier[:, None] - own + dustbin
    return torch.sqrt(offset * offset + 4 * own * dustbin), offset

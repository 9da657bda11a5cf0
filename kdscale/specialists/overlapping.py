"""Joint inference where active specialists share classes: Newton's method on the dual.

The optimum is q_i = a_i / (lambda + sum of mu_m over the active m that hold i), mu_m = d_m / (1 - Q_m), so that only
the sets that hold a class matter: classes of equal membership are pooled to regions. lambda and mu maximise

    sum over regions of a_r log(lambda + sum of mu_m) + sum over m of d_m log(mu_m) - lambda - sum over m of mu_m,

which is concave and whose gradient is what q lacks: (sum of q - 1, Q_m + d_m / mu_m - 1). Steps are cut before they
leave the domain, and halved while they overshoot the maximum along their line.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 100
TOLERANCE = 1e-12
"""Of the gradient's largest component, per unit of total weight."""


@dataclass(frozen=True)
class Regions:
    """Classes of equal membership, for G different sets of active specialists."""

    entry: Tensor
    """(G, E) int64: the region of each entry of the active sets, laid end to end."""
    first: Tensor
    """(G, E) bool: the entry is the first to name its class."""
    members: Tensor
    """(G, R, M) float64: 1 where the region's classes are in the set of the slot."""


def pool(classes: Tensor, filled: Tensor, live: Tensor, members: Tensor) -> Regions:
    """Regions of active sets.

    Args:
        classes: (G, M, S) int64 class numbers of the sets in each slot.
        filled: (G, M, S) bool: not a repetition.
        live: (G, M) bool: the slot is in use; other slots repeat a slot that is.
        members: (G, M, C) bool: the classes in each slot's set.
    """
    _, slots, size = classes.shape
    flat = classes.flatten(1)
    holds = members.gather(2, flat[:, None].expand(-1, slots, -1)) & live[:, :, None]  # (G, M, E)
    owner = torch.arange(slots, device=flat.device).repeat_interleave(size)
    first = (holds.to(torch.uint8).argmax(1) == owner) & filled.flatten(1) & live[:, owner]
    code = torch.zeros_like(flat)
    for start in range(0, slots, 30):  # 30 slots at a time, so that a code stays within 64 bits
        part = holds[:, start : start + 30].to(torch.int64)
        weight = 2 ** torch.arange(part.shape[1], device=flat.device)
        code = _rank((code << 30) + (part * weight[:, None]).sum(1))
    count = int(code.max()) + 1
    table = holds[:, :, :1].transpose(1, 2).expand(-1, count, -1).to(torch.float64).clone()
    index = code[:, :, None].expand(-1, -1, slots)
    table.scatter_(1, index, holds.transpose(1, 2).to(torch.float64))
    return Regions(code, first, table)


def solve(
    members: Tensor, mass: Tensor, dustbin: Tensor, live: Tensor, rest: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Multipliers of the optimum.

    Args:
        members: (B, R, M) float64, which regions are in which slot's set.
        mass: (B, R) float64, a_r; 0 for regions that are not there.
        dustbin: (B, M) float64, d_m > 0 where live.
        live: (B, M) bool.
        rest: (B,) float64, A_0 of the classes in no active set; 0 if there are none.

    Returns:
        (B,) lambda; (B, M) mu, 0 where not live; (B,) residual: the dual gradient's largest component; steps taken.
    """
    forms = _forms(members)
    weight = torch.cat([rest[:, None], mass, dustbin * live], 1)
    used = weight > 0
    variables = torch.cat([torch.ones_like(live[:, :1]), live], 1).to(mass.dtype)
    total = weight.sum(1)
    inside = (members * mass[:, :, None]).sum(1)
    mu = dustbin / ((total[:, None] - inside).clamp_min(0) / total[:, None] + dustbin) * live
    x = torch.cat([(total - mu.sum(1)).clamp_min(0.1)[:, None], mu], 1)

    def slopes(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = torch.where(used, torch.einsum("brm,bm->br", forms, point), 1.0)
        ratio = weight / value
        return (torch.einsum("br,brm->bm", ratio, forms) - 1) * variables, value, ratio

    gradient, value, ratio = slopes(x)
    steps = 0
    while steps < STEPS:
        residual = gradient.abs().amax(1)
        open_ = residual > TOLERANCE * total
        if not open_.any():
            break
        steps += 1
        direction = _newton(forms, ratio / value, gradient, variables) * open_[:, None]
        change = torch.einsum("brm,bm->br", forms, direction)
        room = torch.where((change < 0) & used, -value / change.clamp_max(-1e-300), torch.inf).amin(1)
        length = (0.99 * room).clamp_max(1.0)
        rise = (gradient * direction).sum(1)
        for _ in range(40):
            trial = x + length[:, None] * direction
            after, value, ratio = slopes(trial)
            over = (after * direction).sum(1) < -0.25 * rise - 1e-15
            if not over.any():
                break
            length = torch.where(over, length / 2, length)
        x, gradient = trial, after
    return x[:, 0], x[:, 1:], gradient.abs().amax(1), steps


def _forms(members: Tensor) -> Tensor:
    """(B, 1 + R + M, 1 + M) what stands under the logarithms, in lambda and mu: of the rest, the regions, the dustbins."""
    batch, regions, slots = members.shape
    forms = torch.zeros(batch, 1 + regions + slots, 1 + slots, dtype=members.dtype, device=members.device)
    forms[:, : 1 + regions, 0] = 1
    forms[:, 1 : 1 + regions, 1:] = members
    forms[:, 1 + regions :, 1:] = torch.eye(slots, dtype=members.dtype, device=members.device)
    return forms


def _newton(forms: Tensor, curvature: Tensor, gradient: Tensor, variables: Tensor) -> Tensor:
    """(B, 1 + M) Newton direction, the Hessian scaled to a unit diagonal before it is factored."""
    hessian = torch.einsum("brm,br,brn->bmn", forms, curvature, forms)
    hessian = hessian * variables[:, :, None] * variables[:, None] + torch.diag_embed(1 - variables)
    scale = hessian.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    unit = hessian * scale[:, :, None] * scale[:, None]
    unit = unit + 1e-14 * torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
    factor, _ = torch.linalg.cholesky_ex(unit)
    return torch.cholesky_solve((gradient * scale)[:, :, None], factor)[:, :, 0] * scale


def _rank(code: Tensor) -> Tensor:
    """(G, E) codes renumbered 0, 1, ... within each row, equal codes alike."""
    values, order = code.sort(1)
    new = torch.zeros_like(values)
    new[:, 1:] = (values[:, 1:] != values[:, :-1]).cumsum(1)
    return torch.zeros_like(code).scatter_(1, order, new)

"""Joint inference of generalist and specialists (Hinton, Vinyals & Dean 2015, section 5.5), a batch at once.

The paper minimises KL(p_g, q) + sum over the active specialists m of KL(p_m, q) by gradient descent on each image. The
problem is convex and its optimum is known up to one number an image and active specialist, so that is what is solved:
`disjoint` where an image's active specialists share no class, `overlapping` elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdscale.errors import UserError
from kdscale.specialists import disjoint, overlapping
from kdscale.specialists.sets import ClassSets

FLOOR = 1e-15
"""Mass spread evenly over all classes, and least mass of a dustbin. Where all classes outside a set have probability
zero but its dustbin has not, the optimum is not unique; this makes it so, at less than 1e-12 of the objective."""


@dataclass(frozen=True)
class Joint:
    """The distributions, and the certificate that they are the optimum."""

    q: Tensor
    """(B, C), of the generalist's dtype."""
    residual: Tensor
    """(B,) float64: the largest violation of the optimality (KKT) conditions; 0 where no specialist is active."""
    active: Tensor
    """(B, K) bool."""
    steps: int
    """Newton steps of the slowest image."""


def joint(
    generalist: Tensor, own: Tensor, dustbin: Tensor, sets: ClassSets, n: int = 1, active: Tensor | None = None
) -> Joint:
    """The distribution that agrees best with the generalist and the active specialists.

    Args:
        generalist: (B, C) float32 or float64 probabilities; rows sum to one.
        own: (B, K, S) probabilities of specialists' own classes in the order of `sets.classes`; what stands at places
            that are not filled, and for specialists that are not active, is ignored.
        dustbin: (B, K) probabilities of the dustbins.
        sets: on the same device.
        n: how many of the generalist's most probable classes choose the active specialists.
        active: (B, K) bool, instead of that choice.

    Raises:
        UserError: shapes or types do not fit each other.
    """
    _check(generalist, own, dustbin, sets)
    if active is None:
        active = sets.active(generalist, n)
    floats = active.float()
    shares = ((floats @ sets.overlaps.float()) * floats).sum(1) > 0
    kinds = (active.any(1) & ~shares, _disjoint), (shares, _overlapping)
    for chosen, way in kinds:
        if len(chosen) and chosen.all():  # spares a copy of everything
            found, lack, steps = way(generalist, own, dustbin, active, sets)
            return Joint(found, lack, active, steps)
    q = generalist.clone()
    residual = torch.zeros(len(q), dtype=torch.float64, device=q.device)
    steps = 0
    for chosen, way in kinds:
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            found, lack, taken = way(generalist[rows], own[rows], dustbin[rows], active[rows], sets)
            q[rows], residual[rows], steps = found, lack, max(steps, taken)
    return Joint(q, residual, active, steps)


def objective(generalist: Tensor, own: Tensor, dustbin: Tensor, sets: ClassSets, active: Tensor, q: Tensor) -> Tensor:
    """(B,) float64: KL(p_g, q) + sum over the active m of KL(p_m, q); shapes as in `joint`."""
    given = q.double()
    total = _kl(generalist.double(), given).sum(1)
    named = given[:, sets.classes]
    part = torch.where(sets.filled, _kl(own.double(), named), 0.0).sum(2)
    outside = given @ (~sets.members).double().T
    part = part + _kl(dustbin.double(), outside)
    return total + torch.where(active, part, 0.0).sum(1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.clamp_min(1e-300).log() - q.clamp_min(1e-300).log()), 0.0)


def _slots(active: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M) specialists active in each row, and whether the slot is in use; other slots repeat the first."""
    live, index = active.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    most = int(active.sum(1).amax())
    used = live[:, :most].bool()
    return torch.where(used, index[:, :most], index[:, :1]), used


def _added(generalist: Tensor, own: Tensor, slots: Tensor, live: Tensor, sets: ClassSets) -> tuple[Tensor, Tensor]:
    """(B, C) a, and the (B, M * S) classes of the active sets, repetitions included."""
    classes = sets.classes[slots]
    part = own.gather(1, slots[:, :, None].expand(-1, -1, own.shape[2]))
    part = torch.where(sets.filled[slots] & live[:, :, None], part, 0.0).to(generalist.dtype)
    a = generalist + FLOOR / generalist.shape[1]
    return a.scatter_add_(1, classes.flatten(1), part.flatten(1)), classes.flatten(1)


def _result(classes: Tensor, named: Tensor, rest: Tensor, divisor: Tensor) -> Tensor:
    """(B, C) q: the (B, E) named classes, and the rest by its divisor, in place; repetitions write the same twice."""
    rest /= divisor[:, None].to(rest.dtype)
    return rest.scatter_(1, classes, named.to(rest.dtype))


def _disjoint(
    generalist: Tensor, own: Tensor, dustbin: Tensor, active: Tensor, sets: ClassSets
) -> tuple[Tensor, Tensor, int]:
    slots, live = _slots(active)
    a, classes = _added(generalist, own, slots, live, sets)
    named = a.gather(1, classes).double().reshape(*slots.shape, -1)
    mass = torch.where(sets.filled[slots] & live[:, :, None], named, 0.0).sum(2)
    rest = a.scatter_(1, classes, 0.0)
    d = torch.where(live, dustbin.gather(1, slots), 0.0).double()
    multiplier, inside, residual, steps = disjoint.solve(mass, d, rest.sum(1, dtype=torch.float64))
    inside = torch.where(live, inside, inside[:, :1])
    return _result(classes, (named / inside[:, :, None]).flatten(1), rest, multiplier), residual, steps


def _overlapping(
    generalist: Tensor, own: Tensor, dustbin: Tensor, active: Tensor, sets: ClassSets
) -> tuple[Tensor, Tensor, int]:
    groups, group = torch.unique(active, dim=0, return_inverse=True)
    group_slots, group_live = _slots(groups)
    regions = overlapping.pool(
        sets.classes[group_slots], sets.filled[group_slots], group_live, sets.members[group_slots]
    )
    slots, live, entry = group_slots[group], group_live[group], regions.entry[group]
    a, classes = _added(generalist, own, slots, live, sets)
    named = a.gather(1, classes).double()
    members = regions.members[group]
    mass = torch.zeros(members.shape[:2], dtype=torch.float64, device=a.device)
    mass.scatter_add_(1, entry, torch.where(regions.first[group], named, 0.0))
    rest = a.scatter_(1, classes, 0.0)
    d = torch.where(live, dustbin.gather(1, slots).double().clamp_min(FLOOR), 0.0)
    multiplier, mu, residual, steps = overlapping.solve(members, mass, d, live, rest.sum(1, dtype=torch.float64))
    divisor = multiplier[:, None] + torch.einsum("brm,bm->br", members, mu)
    q = _result(classes, named / divisor.gather(1, entry), rest, multiplier.abs().clamp_min(1e-300))
    return q, residual, steps


def _check(generalist: Tensor, own: Tensor, dustbin: Tensor, sets: ClassSets) -> None:
    batch, count = generalist.shape[0], len(sets.classes)
    wanted = {
        "generalist": (generalist, (batch, sets.members.shape[1])),
        "own": (own, (batch, *sets.classes.shape)),
        "dustbin": (dustbin, (batch, count)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise UserError(f"joint inference: {name} has shape {tuple(tensor.shape)}, not {shape}; give it that shape")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise UserError(f"joint inference: {name} is {tensor.dtype}; convert it to float32 or float64")

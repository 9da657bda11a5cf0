"""Which classes a specialist knows, laid out for whole batches, and which specialists an image needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdscale.errors import UserError


@dataclass(frozen=True)
class ClassSets:
    """The class sets of K specialists among C classes; sets may overlap and differ in size."""

    classes: Tensor
    """(K, S) int64 class numbers; a set with fewer than S classes repeats its first one at the end."""
    filled: Tensor
    """(K, S) bool: False where a class is such a repetition."""
    members: Tensor
    """(K, C) bool: whether the set holds the class."""
    overlaps: Tensor
    """(K, K) bool: whether two different sets share a class."""

    @staticmethod
    def of(sets: Sequence[Sequence[int]], classes: int, device: torch.device | str = "cpu") -> "ClassSets":
        """Lay out the sets, each in the order given, which is the order of the specialist's outputs.

        Raises:
            UserError: no set, an empty set, a class twice in a set or outside 0 to classes - 1, or a set of all classes.
        """
        if not sets:
            raise UserError("specialists: there are no class sets; give at least one")
        for number, one in enumerate(sets):
            reason = _fault(one, classes)
            if reason:
                raise UserError(f"specialists: set {number} {reason}; mend the set")
        longest = max(map(len, sets))
        padded = torch.tensor([[*one, *[one[0]] * (longest - len(one))] for one in sets], dtype=torch.int64)
        sizes = torch.tensor([len(one) for one in sets])
        members = torch.zeros(len(sets), classes, dtype=torch.bool).scatter_(1, padded, True)
        shared = members.float() @ members.float().T > 0
        shared.fill_diagonal_(False)
        filled = torch.arange(longest) < sizes[:, None]
        return ClassSets(*(part.to(device) for part in (padded, filled, members, shared)))

    def to(self, device: torch.device | str) -> "ClassSets":
        return ClassSets(*(part.to(device) for part in (self.classes, self.filled, self.members, self.overlaps)))

    def active(self, generalist: Tensor, n: int = 1) -> Tensor:
        """(B, K) bool: the specialists whose classes meet the n most probable of each row of (B, C) probabilities."""
        top = generalist.topk(min(n, generalist.shape[1]), dim=1).indices
        return self.members.T[top].any(dim=1)


def _fault(one: Sequence[int], classes: int) -> str | None:
    if not one:
        return "is empty"
    if min(one) < 0 or max(one) >= classes:
        return f"names the class {max(one) if max(one) >= classes else min(one)}, outside 0 to {classes - 1}"
    if len(set(one)) < len(one):
        return "names a class twice"
    return f"holds all {classes} classes and leaves none to its dustbin" if len(one) == classes else None

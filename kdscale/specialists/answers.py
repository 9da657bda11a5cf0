"""What the generalist and its specialists say together, as one function from samples to log-probabilities.

So the whole can label a split, fill a store or be measured like any single network. A specialist is asked only about the samples
that make it active.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from kdscale.specialists.dustbin import corrected
from kdscale.specialists.inference import Joint, joint
from kdscale.specialists.sets import ClassSets

LEAST = 1e-38
"""Probabilities below this count as this: logarithms in float32 stay finite."""
Network = Callable[[Tensor], Tensor]


class Together:
    """(B, *shape) samples -> (B, C) float32 log-probabilities.

    Args:
        generalist: gives (B, C) logits.
        specialists: give (B, S_k + 1) logits each, in the order of `sets`, the dustbin last.
        shifts: of each one's dustbin.
        n: how many of the generalist's most probable classes choose the active specialists.
    """

    def __init__(
        self, generalist: Network, specialists: Sequence[Network], shifts: Sequence[float], sets: ClassSets, n: int = 1
    ):
        assert len(specialists) == len(shifts) == len(sets.classes)
        self.generalist, self.specialists, self.shifts, self.sets, self.n = generalist, specialists, shifts, sets, n

    def __call__(self, x: Tensor) -> Tensor:
        return self.infer(x).q.clamp_min(LEAST).log().float()

    def infer(self, x: Tensor) -> Joint:
        """q in float64 with its certificate."""
        p = self.generalist(x).double().softmax(1)
        active = self.sets.active(p, self.n)
        own = p.new_zeros((len(p), *self.sets.classes.shape))
        dustbin = p.new_zeros(active.shape)
        for number in active.any(0).nonzero()[:, 0].tolist():
            rows = active[:, number].nonzero()[:, 0]
            logits = self.specialists[number](x[rows]).double()
            said = corrected(logits, self.shifts[number]).softmax(1)
            own[rows, number, : said.shape[1] - 1], dustbin[rows, number] = said[:, :-1], said[:, -1]
        return joint(p, own, dustbin, self.sets, self.n, active)

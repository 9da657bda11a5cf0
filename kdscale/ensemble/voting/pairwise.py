"""Pairwise rules: each two classes are compared by the members that rank one above the other.

m(i, j) is the number of members with i above j less those with j above i. All rules here elect the Condorcet winner,
the class that beats every other one, where there is one. Definitions as in Brandt et al. (eds.), Handbook of
Computational Social Choice, 2016.

The costly rules, Schulze's and Kemeny's, look only at the Smith set: the smallest set of classes of which each beats
every class outside. For both that changes nothing. Schulze: a path from outside into the set would need a class outside
that beats one inside, so nothing outside reaches the set, and no path between classes of the set gains by leaving it.
Kemeny: putting the set first wins the most in every pair across its border, and what is left are separate problems.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kdscale.ensemble.voting.ballots import AT_ONCE, Ballots

IN_CACHE = 1 << 18
"""Pairs whose paths are followed at once, so that they stay in the processor's cache."""
MOST_RANKED = 12
"""Classes that Kemeny's rule orders at most."""


def copeland(ballots: Ballots) -> Tensor:
    """Classes that this one beats less those that beat it (Copeland 1951)."""
    return ballots.margins.sign().sum(-1).double()


def simpson(ballots: Ballots) -> Tensor:
    """The margin in the worst comparison, min over j of m(i, j): minimax (Simpson 1969, Kramer 1977)."""
    self_margin = ballots.members * torch.eye(ballots.classes, dtype=ballots.margins.dtype, device=ballots.ranks.device)
    return (ballots.margins + self_margin).amin(-1).double()


def condorcet(ballots: Ballots) -> Tensor:
    """1 for a class that beats or ties every other, else 0.

    Where there is no such class all tie, and the summed probabilities decide: the fallback.
    """
    return (ballots.margins >= 0).all(-1).double()


def schulze(ballots: Ballots) -> Tensor:
    """Less the number of classes with a stronger path to this one than back; 0 for winners (Schulze 2011).

    A path leads from each class to one that it beats, and is as strong as its smallest margin. The strongest ones are
    found as by Floyd & Warshall, in K^3 operations for a Smith set of K classes. Classes outside are below it.
    """
    return _among_best(ballots, ballots.classes, _beaten_by)


def kemeny(ballots: Ballots) -> Tensor:
    """The largest agreement of an order of all classes that begins with this one (Kemeny 1959, Young & Levenglick 1978).

    The agreement of an order is the sum of m(i, j) over the pairs that it has i above j. The best of all orders is found
    by dynamic programming over sets of classes (2^K K^2 operations a row, Betzler et al. 2009), which is exact while
    the Smith set has at most `MOST_RANKED` classes. Of a larger one those of the highest Copeland scores compete, and
    the result may differ from Kemeny's. Classes that do not compete are below those that do.
    """
    return _among_best(ballots, MOST_RANKED, _best_with_each_first)


def smith_size(copeland_scores: Tensor) -> Tensor:
    """(B,) the size of the Smith set; its classes are those of the highest Copeland scores.

    Within a set, wins and losses cancel, so that k classes have k (C - k) points together if and only if each beats all
    the others: the smallest such k among the highest scores is the size.
    """
    classes = copeland_scores.shape[-1]
    together = copeland_scores.sort(-1, descending=True).values.cumsum(-1)
    size = torch.arange(1, classes + 1, device=together.device)
    return (together == size * (classes - size)).int().argmax(-1) + 1


def _among_best(ballots: Ballots, most: int, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, C) scores by a rule of (B, K, K) margins among K classes that hold the Smith set, as far as K is at most `most`.

    Rows of about the same K, to a power of two, are taken together. Classes outside are below all inside.
    """
    standing = copeland(ballots)
    best = standing.sort(dim=-1, descending=True, stable=True).indices
    size = smith_size(standing)
    result = torch.zeros_like(standing)
    for count in {1 << (number - 1).bit_length() for number in size.tolist()}:
        inside = (size <= count) & (2 * size > count)
        candidates = best[inside, : min(count, most)]
        wide = candidates[:, :, None].expand(-1, -1, ballots.classes)
        margins = ballots.margins[inside].gather(1, wide).gather(2, _square(candidates))
        scores = rule(margins).double()
        outside = scores.amin(-1, keepdim=True) - ballots.classes
        result[inside] = outside.expand(-1, ballots.classes).scatter(-1, candidates, scores)
    return result


def _square(candidates: Tensor) -> Tensor:
    return candidates[:, None, :].expand(-1, candidates.shape[-1], -1)


def _beaten_by(margins: Tensor) -> Tensor:
    """(B, K) less the number of classes with the stronger path."""
    rows = max(1, IN_CACHE // margins.shape[-1] ** 2)
    return torch.cat([_weaker_paths(part) for part in torch.split(margins, rows)])


def _weaker_paths(margins: Tensor) -> Tensor:
    strength = margins.clamp_min(0)
    for via in range(strength.shape[-1]):
        through = torch.minimum(strength[:, :, via, None], strength[:, None, via, :])
        strength = torch.maximum(strength, through)
    return -(strength < strength.transpose(1, 2)).sum(-1)


def _best_with_each_first(margins: Tensor) -> Tensor:
    """(B, K) the agreement of the best order that begins with each of the K classes."""
    rows = max(1, AT_ONCE >> margins.shape[-1])
    return torch.cat([_best_orders(part.int().permute(1, 2, 0).contiguous()) for part in torch.split(margins, rows)])


def _best_orders(over: Tensor) -> Tensor:
    """(B, K) the same of (K, K, B) margins, from the best orders of all smaller sets of classes; a set is a number's bits."""
    count = len(over)
    best = over.new_zeros(1 << count, over.shape[-1])
    for held in range(1, 1 << count):
        inside = [i for i in range(count) if held >> i & 1]
        won = over[inside][:, inside].sum(1)  # by each over all others of the set
        rest = torch.tensor([held & ~(1 << i) for i in inside], device=over.device)
        options = won + best[rest]
        best[held] = options.amax(0)
    return options.T

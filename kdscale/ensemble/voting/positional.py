"""Positional rules: a class gets points for the places that it has on the ballots.

Definitions as in Brandt, Conitzer, Endriss, Lang & Procaccia (eds.), Handbook of Computational Social Choice, 2016;
Dowdall's as in Fraenkel & Grofman 2014, Bucklin's as in Hoag & Hallett 1926.
"""

from torch import Tensor

from kdscale.ensemble.voting.ballots import Ballots


def plurality(ballots: Ballots) -> Tensor:
    """The number of first choices."""
    return (ballots.ranks == 0).sum(0).double()


def borda(ballots: Ballots) -> Tensor:
    """C - 1 points for a first choice, one less for each place further down (Borda 1784)."""
    return (ballots.classes - 1 - ballots.ranks.long()).sum(0).double()


def symmetric_borda(ballots: Ballots) -> Tensor:
    """For every other class, members that rank this one above it less those that rank it below.

    A member gives (C - 1 - rank) - rank. As members rank all classes, this is Borda's count doubled and shifted, and
    elects the same class; the two differ only where ballots may be left incomplete.
    """
    return (ballots.classes - 1 - 2 * ballots.ranks.long()).sum(0).double()


def dowdall(ballots: Ballots) -> Tensor:
    """A whole point for a first choice, 1/2 for a second, 1/3 for a third, ... (the method of Nauru)."""
    return (1 / (ballots.ranks.double() + 1)).sum(0)


def bucklin(ballots: Ballots) -> Tensor:
    """Second, third, ... choices are added to the first until a class has more than half of the members.

    The class that needs the fewest choices wins; of several, the one that most members rank so high.
    """
    half = ballots.members // 2
    depth = ballots.ranks.kthvalue(half + 1, 0).values  # where more than half have come to this class
    reached = (ballots.ranks <= depth).sum(0)
    return (reached - (ballots.members + 1) * depth.long()).double()

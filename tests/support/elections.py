"""Elections counted slowly, in plain Python, from the definitions: one sample at a time, no shortcuts.

A ballot is the list of all classes, best first. `place` says which class is preferred where a rule ties, 0 the most.
"""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

Ballots = Sequence[Sequence[int]]
Count = Callable[[Ballots, Sequence[int]], int]


def margin(ballots: Ballots, i: int, j: int) -> int:
    above = sum(ballot.index(i) < ballot.index(j) for ballot in ballots)
    return above - (len(ballots) - above)


def points(of_rank: Callable[[int, int], Fraction | int]) -> Count:
    """A positional rule; `of_rank` gives the points of a rank among so many classes."""

    def count(ballots: Ballots, place: Sequence[int]) -> int:
        classes = len(place)
        score = [sum(of_rank(ballot.index(i), classes) for ballot in ballots) for i in range(classes)]
        return best(score, place)

    return count


def best(score: Sequence[Fraction | int], place: Sequence[int]) -> int:
    return max(range(len(score)), key=lambda i: (score[i], -place[i]))


def bucklin(ballots: Ballots, place: Sequence[int]) -> int:
    for depth in range(1, len(place) + 1):
        votes = [sum(ballot.index(i) < depth for ballot in ballots) for i in range(len(place))]
        if 2 * max(votes) > len(ballots):
            return best(votes, place)
    raise AssertionError


def stv(ballots: Ballots, place: Sequence[int]) -> int:
    left = set(range(len(place)))
    while len(left) > 1:
        first = [next(i for i in ballot if i in left) for ballot in ballots]
        left.remove(min(left, key=lambda i: (first.count(i), -place[i])))
    return left.pop()


def _borda(ballots: Ballots, left: set[int]) -> dict[int, int]:
    return {i: sum(sum(j in left for j in ballot[ballot.index(i) + 1 :]) for ballot in ballots) for i in left}


def baldwin(ballots: Ballots, place: Sequence[int]) -> int:
    left = set(range(len(place)))
    while len(left) > 1:
        count = _borda(ballots, left)
        left.remove(min(left, key=lambda i: (count[i], -place[i])))
    return left.pop()


def nanson(ballots: Ballots, place: Sequence[int]) -> int:
    left = set(range(len(place)))
    while True:
        count = _borda(ballots, left)
        kept = {i for i in left if count[i] * len(left) >= sum(count.values())}
        if kept == left:
            return min(left, key=lambda i: place[i])
        left = kept


def copeland(ballots: Ballots, place: Sequence[int]) -> int:
    every = range(len(place))
    signs = [[(m > 0) - (m < 0) for m in (margin(ballots, i, j) for j in every if j != i)] for i in every]
    return best([sum(row) for row in signs], place)


def simpson(ballots: Ballots, place: Sequence[int]) -> int:
    every = range(len(place))
    return best([min(margin(ballots, i, j) for j in every if j != i) for i in every], place)


def condorcet(ballots: Ballots, place: Sequence[int]) -> int:
    every = range(len(place))
    winners = [i for i in every if all(margin(ballots, i, j) >= 0 for j in every if j != i)]
    return min(winners or every, key=lambda i: place[i])


def schulze(ballots: Ballots, place: Sequence[int]) -> int:
    """By walking all simple paths."""
    every = range(len(place))

    def strongest(i: int, j: int) -> int:
        others = [k for k in every if k not in (i, j)]
        paths = [(i, *via, j) for n in range(len(others) + 1) for via in itertools.permutations(others, n)]
        return max(max(0, min(margin(ballots, a, b) for a, b in itertools.pairwise(path))) for path in paths)

    winners = [i for i in every if all(strongest(i, j) >= strongest(j, i) for j in every if j != i)]
    return min(winners, key=lambda i: place[i])


def kemeny(ballots: Ballots, place: Sequence[int]) -> int:
    """By trying all orders."""
    every = range(len(place))
    agreement = {
        order: sum(margin(ballots, i, j) for i, j in itertools.combinations(order, 2))
        for order in itertools.permutations(every)
    }
    return min((order[0] for order in agreement if agreement[order] == max(agreement.values())), key=lambda i: place[i])


RULES: dict[str, Count] = {
    "plurality": points(lambda rank, classes: int(rank == 0)),
    "borda": points(lambda rank, classes: classes - 1 - rank),
    "symmetric_borda": points(lambda rank, classes: classes - 1 - 2 * rank),
    "dowdall": points(lambda rank, classes: Fraction(1, rank + 1)),
    "bucklin": bucklin,
    "stv": stv,
    "baldwin": baldwin,
    "nanson": nanson,
    "copeland": copeland,
    "simpson": simpson,
    "condorcet": condorcet,
    "schulze": schulze,
    "kemeny": kemeny,
}

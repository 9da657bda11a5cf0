"""Covers: which blocks to read for an ensemble's target, when some members have been fused on disk.

A fused set stands for its members with their summed weight, as long as the rule is a mean: a mean of means is the mean.
So any disjoint sets and single members that together are the ensemble give the same target, up to the codec's rounding,
and the one of the fewest bytes is read.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdscale.logits.records import Maker

MOST_SETS = 12
"""Fused sets that are combined; more than a few are never there."""


@dataclass(frozen=True)
class Part:
    """One block to read, of a member or of a fused set."""

    member: str
    checkpoint: str | None
    """That the block must be of; None for any."""
    weight: float = 1.0


def cheapest(
    wanted: Mapping[str, str],
    weights: Mapping[str, float],
    rule: str,
    temperature: float | None,
    sets: Iterable[Maker],
    size: Mapping[str, float],
) -> list[Part]:
    """The parts of fewest bytes that together are the ensemble.

    Args:
        wanted: the ensemble's members and the hashes of their weights.
        weights: relative to 1.
        sets: fused sets whose blocks are all there.
        size: bytes of a row of each member and set, by name.
    """
    usable = sorted(
        (s for s in sets if _serves(s, wanted, weights, rule, temperature)),
        key=lambda s: (size[s.member] / len(s.fused.members if s.fused else ()), s.member),
    )[:MOST_SETS]
    best: tuple[Maker, ...] = ()
    least = sum(size.get(name, 0.0) for name in wanted)
    for count in range(1, len(usable) + 1):
        for chosen in itertools.combinations(usable, count):
            covered = _members(chosen)
            if len(set(covered)) < len(covered):
                continue
            cost = sum(size[s.member] for s in chosen) + sum(size.get(n, 0.0) for n in wanted if n not in covered)
            if cost < least:
                best, least = chosen, cost
    covered = _members(best)
    parts = [
        Part(s.member, s.checkpoint, sum(weights.get(name, 1.0) for name in s.fused.members)) for s in best if s.fused
    ]
    return parts + [Part(name, wanted[name], weights.get(name, 1.0)) for name in wanted if name not in covered]


def _members(sets: Iterable[Maker]) -> list[str]:
    return [name for s in sets if s.fused for name in s.fused.members]


def _serves(
    s: Maker, wanted: Mapping[str, str], weights: Mapping[str, float], rule: str, temperature: float | None
) -> bool:
    """Whether a set is a part of this ensemble: the same weights of the same members, by the same rule."""
    f = s.fused
    if f is None or f.rule != rule or (s.temperatures is not None and temperature not in s.temperatures):
        return False
    if any(wanted.get(name) != checkpoint for name, checkpoint in f.members.items()):
        return False
    total = sum(weights.get(name, 1.0) for name in f.members)
    return all(math.isclose(f.weights[name], weights.get(name, 1.0) / total, rel_tol=1e-6) for name in f.members)

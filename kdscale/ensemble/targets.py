"""Targets: what a student is given of its ensemble, fused from what the store holds.

Where all logits are stored, a target is one distribution, by any fusion rule. Where only a part is, the members'
mean probability can still be had without filling in what the codec left out: draws add up to the draws of the mean,
and top-k heads stay side by side, each with its own tail, since a class in one member's head may be in another's tail.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.data import columns
from kdscale.data.columns import Columns
from kdscale.ensemble import uncertainty
from kdscale.ensemble.covers import Part
from kdscale.ensemble.fusion import RULES
from kdscale.ensemble.live import Live
from kdscale.errors import UserError
from kdscale.logits.reader import member_rows
from kdscale.logits.records import Slot
from kdscale.logits.rows import Logits, Sparse
from kdscale.logits.store import Store

_Name = tuple[str, int, tuple[tuple[str, str | None], ...]]
"""(shard, view, who was read)."""
AT_ONCE = 1 << 24
"""Logits of all members that are fused at once, so that the shard's size does not matter."""


def fused(
    rows: Sequence[Logits | Sparse],
    rule: str,
    temperature: float | None,
    weights: Sequence[float] | None = None,
    apart: bool = False,
) -> Columns:
    """The target of N rows at a temperature, or one whose temperature is still open.

    Args:
        temperature: None leaves it open.
        weights: of each member, relative to the others'; equal by default.
        apart: one group for each row, in their order, whatever the codec, for students that match each member by itself; all
            logits are then given as if the temperature were open.

    Returns:
        `p` (N, C) where the store keeps all logits; else `ids`, `p` (N, G, K), `tail` and `weight` (N, G) of G groups
        whose losses are averaged: a group for each member's head, or one for the sum of all draws. Where the temperature
        is open, `logits` (N, G, C) and `weight` (N, G): the target is the mean of the groups' softmaxes.

    Raises:
        UserError: the rule, or an open temperature, needs logits that the codec left out.
    """
    share = torch.tensor(weights if weights is not None else [1.0] * len(rows), dtype=torch.float64)
    share = (share / share.sum()).float()
    logits = [r.values for r in rows if isinstance(r, Logits)]
    if apart:
        check(rule)
    if temperature is None or (apart and len(logits) == len(rows)):
        if len(logits) < len(rows):
            raise UserError(
                "temperature: one that changes from step to step needs every logit, which only logits.codec dense keeps; "
                "take that codec, or a constant temperature"
            )
        return _open(logits, rule, share)
    if len(logits) == len(rows):
        return {"p": _fuse_all(logits, rule, temperature, share)}
    check(rule)
    sparse = [r for r in rows if isinstance(r, Sparse)]
    if all(r.counted for r in sparse) and not apart:
        ids = np.concatenate([r.ids for r in sparse], 1)[:, None]
        p = np.concatenate([r.p * w for r, w in zip(sparse, share.numpy(), strict=True)], 1)[:, None]
        tail, share = np.zeros((len(p), 1), np.float32), torch.ones(1)
        return _sparse(ids, p, tail, share)
    ids, p = (_side_by_side([getattr(r, name) for r in sparse]) for name in ("ids", "p"))
    tail = np.stack([r.tail for r in sparse], 1)
    return _sparse(ids, p, tail, share)


def _open(logits: list[np.ndarray], rule: str, share: Tensor) -> Columns:
    """Members side by side, or their mean, as the rule has it."""
    stacked = torch.from_numpy(np.stack(logits, 1))
    if rule == "mean_logit":
        mean = (stacked.float() * share[:, None]).sum(1, keepdim=True)
        return {"logits": mean, "weight": torch.ones(len(mean), 1)}
    return {"logits": stacked, "weight": share.expand(len(stacked), -1).contiguous()}


def _side_by_side(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(N, G, K) of G times (N, K_g), zeros behind the narrower ones: slots that a row of counts, which has no tail, does not need."""
    width = max(column.shape[1] for column in columns)
    return np.stack([np.pad(column, ((0, 0), (0, width - column.shape[1]))) for column in columns], 1)


def _sparse(ids: NDArray[np.int64], p: NDArray[np.float32], tail: NDArray[np.float32], share: Tensor) -> Columns:
    weight = share.expand(len(ids), -1).contiguous()
    return {"ids": torch.from_numpy(ids), "p": torch.from_numpy(p), "tail": torch.from_numpy(tail), "weight": weight}


def with_groups(target: Columns, groups: int, places: Sequence[int]) -> Columns:
    """The same target with so many groups, its own at `places`: those that are added weigh nothing.

    Rows that were fused from different members fit into one batch that way, each member at its place.
    """
    if "weight" not in target or target["weight"].shape[1] >= groups:
        return target
    wide = dict(target)
    for name, column in target.items():
        if column.dim() > 1:
            wide[name] = column.new_zeros(len(column), groups, *column.shape[2:])
            wide[name][:, list(places)] = column
    return wide


def check(rule: str) -> None:
    """Refuse a rule that a codec which leaves classes out cannot serve."""
    if rule != "mean_probability":
        raise UserError(
            f"fusion: {rule} needs every logit, which only logits.codec dense keeps; "
            "take that codec, or fusion mean_probability"
        )


class Targets:
    """The fused targets of a store's rows, shard by shard or key by key; fused shards are kept in memory.

    Example:
        >>> targets = Targets(Store.open("runs/quickstart/logits"), temperature=4.0)
        >>> targets.of(["train-000001", "train-000002"])["p"].shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        store: Store,
        temperature: float | None,
        members: Mapping[str, str] | Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        rule: str = "mean_probability",
        parts: Sequence[Part] | None = None,
        live: Live | None = None,
        measures: bool = False,
        keep_bytes: int = 1 << 30,
        without: Collection[str] = (),
        apart: bool = False,
    ):
        """
        Args:
            temperature: None for targets whose temperature is open, which a dense store alone gives.
            members: those that count, by name, with the hashes of their weights if they are to be checked; all that the
                store holds by default.
            without: members that are left out of those.
            weights: of members, relative to the others' 1.
            parts: what is read instead of single members: a cover, see `covers.cheapest`.
            live: for a store that is still being written.
            measures: also give each row its `kdscale.ensemble.uncertainty`.
            keep_bytes: of fused shards that stay in memory.
            apart: keep the members apart, see `fused`.

        Raises:
            UserError: the store does not hold a member that is named, or a temperature, rule or weight makes no sense.
        """
        if rule not in RULES:
            raise UserError(f"fusion: {rule} is not one of {', '.join(RULES)}")
        if temperature is not None and not 0 < temperature < math.inf:
            raise UserError(f"temperature: {temperature:g} is not a positive number")
        self.store, self.temperature, self.rule = store, temperature, rule
        self.live, self.measures, self.apart = live, measures, apart
        self._weights = dict(weights or {})
        if measures and any(part.member.startswith("fused-") for part in parts or ()):
            raise UserError("measures: a fused set does not say what its members say; read the members themselves")
        if parts is not None:
            self.parts = list(parts)
        else:
            self.parts = self._single(live.members if live is not None else self._named(members, without))
        self._kept: dict[_Name, tuple[list[str], Columns]] = {}
        self._left = keep_bytes
        self._keys: dict[str, list[str]] = {}
        self._places: dict[str, tuple[str, int]] = {}

    @property
    def members(self) -> list[str]:
        """Who the targets are fused from, by name."""
        return [part.member for part in self.parts]

    def shard(self, shard: str, keys: Sequence[str], view: int = 0, epoch: int = 0) -> Columns:
        """The targets of a shard's rows, in the order of `keys`.

        Raises:
            UserError: a block is missing, damaged, or lacks a key.
            RunFailure: a live store's shard did not come in time.
        """
        parts = self.parts if self.live is None else self._single(self.live.present(shard, view, epoch))
        name, keys = (shard, view, tuple((part.member, part.checkpoint) for part in parts)), list(keys)
        if name in self._kept and self._kept[name][0] == keys:
            return self._kept[name][1]
        anywhere = 1.0 if self.temperature is None else self.temperature
        rows = [
            member_rows(self.store, Slot(shard, view, part.member), part.checkpoint, keys, anywhere) for part in parts
        ]
        weights = [part.weight for part in parts]
        target = fused(rows, self.rule, self.temperature, weights, self.apart)
        if self.measures:
            target |= uncertainty.of_rows(rows, anywhere, weights)
        if self.live is not None:
            if self.apart or not all(isinstance(r, Sparse) and r.counted for r in rows):
                places = [self.live.names.index(part.member) for part in parts]
                target = with_groups(target, len(self.live.names), places)
            target["members"] = torch.full((len(keys),), float(len(parts)))
        self._keep(name, keys, target)
        return target

    def of(self, keys: Sequence[str], view: int = 0) -> Columns:
        """The targets of any keys, in their order. The first call reads the keys of the whole store into memory.

        Raises:
            UserError: the store has no such key, or has it in two shards.
        """
        if any(key not in self._places for key in keys):
            self._index(view)
        by_shard: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            if key not in self._places:
                raise UserError(f"{self.store.name}: has no row for the sample {key}; label its shard first")
            by_shard.setdefault(self._places[key][0], []).append(number)
        found: Columns = {}
        for shard, numbers in by_shard.items():
            rows = torch.tensor([self._places[keys[number]][1] for number in numbers])
            for name, column in self.shard(shard, self._keys[shard], view).items():
                found[name] = columns.place(found.get(name), len(keys), torch.tensor(numbers), column[rows])
        return found

    def _index(self, view: int) -> None:
        """Take up the keys of shards that are not known yet, as the first member's blocks have them."""
        listing, first = self.store.listing(), self.parts[0]
        shards = listing.shards()
        held = listing.holds(shards, view, first.member, first.checkpoint)
        for shard in itertools.compress(shards, held):
            if shard in self._keys:
                continue
            keys = self.store.read(Slot(shard, view, first.member), first.checkpoint).keys
            for row, key in enumerate(keys):
                other = self._places.setdefault(key, (shard, row))
                if other != (shard, row):
                    raise UserError(
                        f"{self.store.name}: the sample {key} is in {other[0]} and in {shard}; read by shard instead"
                    )
            self._keys[shard] = keys

    def _keep(self, name: _Name, keys: list[str], target: Columns) -> None:
        if name in self._kept:
            self._left += columns.nbytes(self._kept.pop(name)[1])
        while self._kept and self._left < columns.nbytes(target):
            self._left += columns.nbytes(self._kept.pop(next(iter(self._kept)))[1])
        self._kept[name] = (keys, target)
        self._left -= columns.nbytes(target)

    def _named(
        self, members: Mapping[str, str] | Sequence[str] | None, without: Collection[str]
    ) -> Mapping[str, str | None]:
        """Members that count, and their checkpoints, as far as the store or the caller knows them."""
        there: dict[str, str | None] = {}
        if isinstance(members, Mapping):
            there.update(members)
        else:
            makers = self.store.listing().members
            there.update((name, makers[name].checkpoint) for name in sorted(makers) if makers[name].fused is None)
        asked = list(there) if members is None else list(members)
        unknown = [name for name in (*asked, *without, *self._weights) if name not in there]
        if unknown or not there:
            raise UserError(
                f"{self.store.name}: holds no member {unknown[0] if unknown else 'at all'}; "
                f"it has {', '.join(there) or 'none'}"
            )
        left = {name: there[name] for name in asked if name not in without}
        if not left:
            raise UserError(f"{self.store.name}: no member is left without {', '.join(without)}")
        bad = next((name for name in left if not 0 < self._weights.get(name, 1.0) < math.inf), None)
        if bad is not None:
            raise UserError(f"weights: {bad} has {self._weights[bad]:g}; take a positive number, or leave it out")
        return left

    def _single(self, members: Mapping[str, str | None]) -> list[Part]:
        return [Part(name, checkpoint, self._weights.get(name, 1.0)) for name, checkpoint in members.items()]


def _fuse_all(logits: list[np.ndarray], rule: str, temperature: float, weights: Tensor) -> Tensor:
    rows, classes = logits[0].shape
    step = max(1, AT_ONCE // (len(logits) * classes))
    parts = [
        RULES[rule](torch.from_numpy(np.stack([z[start : start + step] for z in logits])), temperature, weights)
        for start in range(0, max(rows, 1), step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

"""The numbers of a split: from the logits of all models to what results.json says of it.

Functions of the recipe, the labels and the logits alone, so that the same models give the same numbers.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdscale.ensemble import diversity
from kdscale.ensemble.comparison import Outputs
from kdscale.ensemble.fusion import RULES
from kdscale.recipe import Recipe
from kdscale.repeatable import settle
from kdscale.seeds import generator
from kdscale.training import metrics
from kdscale.training.metrics import Probabilities

MOST_SUBSETS = 32
"""Subsets of members that an ensemble size is averaged over."""
MOST_CONFUSION = 100
"""Classes up to which the confusion matrix is kept."""
MOST_PAIRS = 100
"""Members up to which the disagreement of every two is kept."""
SCALED = ("nll", "brier", "ece")
"""What a temperature changes: it leaves the predictions as they are."""


@dataclass(frozen=True)
class Labelled:
    """A split that all models have labelled."""

    y: NDArray[np.int64]
    """(N,)"""
    z: dict[str, NDArray[np.float32]]
    """(N, C) logits of each model: `teacher-seed-0`, `student-seed-0`, ..."""

    def members(self, seeds: Sequence[int]) -> Outputs:
        """What these members of the ensemble say."""
        return Outputs(np.stack([self.z[f"teacher-seed-{seed}"] for seed in seeds]), self.y)


def measure(recipe: Recipe, test: Labelled, validation: Labelled | None) -> dict[str, Any]:
    """What results.json says of the test split; temperatures are fitted on the validation split, if there is one."""
    settle()
    of_test = _Measuring(recipe, test, validation)
    split: dict[str, Any] = {
        "teachers": [{"seed": seed, **of_test.model(f"teacher-seed-{seed}")} for seed in recipe.teachers.seeds],
        "ensemble": of_test.whole(),
    }
    shown = {"ensemble": of_test.ensemble}
    for kind, seeds in {
        **dict.fromkeys(("student", "control"), recipe.student.seeds),
        "joint": recipe.joint.seeds,
        **dict.fromkeys(("specialists", "distilled", "mixture"), recipe.student.seeds),
    }.items():
        names = {seed: f"{kind}-seed-{seed}" for seed in seeds if f"{kind}-seed-{seed}" in test.z}
        runs = [{"seed": seed, **of_test.model(name)} for seed, name in names.items()]
        if runs:
            shown[kind] = metrics.softmax(test.z[f"{kind}-seed-{runs[0]['seed']}"])
            split[kind] = {**_means(runs), "runs": runs}
        if len(runs) > 1 and kind in ("student", "control"):
            split[f"{kind}_ensemble"] = {"members": len(runs), **of_test.fused(list(names.values()))}
    if "joint" in split:
        split["joint"]["networks"] = recipe.joint.networks
    outputs = test.members(recipe.fused_seeds)
    split["by_size"] = _by_size(recipe, outputs)
    split["diversity"] = _diversity(outputs)
    split["reliability"] = {name: metrics.reliability(p, test.y, recipe.evaluate.bins) for name, p in shown.items()}
    if of_test.ensemble.shape[1] <= MOST_CONFUSION:
        split["confusion"] = {name: metrics.confusion(p, test.y) for name, p in shown.items()}
    return split


class _Measuring:
    """Models on the test split, each against the labels and against the ensemble."""

    def __init__(self, recipe: Recipe, test: Labelled, validation: Labelled | None):
        self.recipe, self.test, self.validation = recipe, test, validation
        self.ensemble = _ensemble(recipe, test.members(recipe.fused_seeds))
        self.reference = self.ensemble.argmax(1)

    def model(self, name: str) -> dict[str, Any]:
        fitted_on = None if self.validation is None else self.validation.z[name]
        return self._measured(metrics.softmax(self.test.z[name]), self.test.z[name], fitted_on)

    def whole(self) -> dict[str, Any]:
        """The ensemble; what is scaled is its fused distribution, not each member (Rahaman & Thiery 2021)."""
        fused = None
        if self.validation is not None:
            fused = _ensemble(self.recipe, self.validation.members(self.recipe.fused_seeds))
        return self._distribution(self.ensemble, fused)

    def fused(self, names: list[str]) -> dict[str, Any]:
        """The mean probability of several models."""
        on_test, on_validation = (
            None if split is None else np.mean([metrics.softmax(split.z[name]) for name in names], 0)
            for split in (self.test, self.validation)
        )
        assert on_test is not None
        return self._distribution(on_test, on_validation)

    def _distribution(self, p: Probabilities, fitted_on: Probabilities | None) -> dict[str, Any]:
        return self._measured(p, metrics.logarithm(p), None if fitted_on is None else metrics.logarithm(fitted_on))

    def _measured(
        self, p: Probabilities, z: NDArray[np.floating], fitted_on: NDArray[np.floating] | None
    ) -> dict[str, Any]:
        y, bins = self.test.y, self.recipe.evaluate.bins
        found: dict[str, Any] = metrics.measure(p, y, self.reference, bins)
        found["divergence"] = metrics.divergence(self.ensemble, p)
        if fitted_on is None or self.validation is None:
            return found
        temperature = metrics.fit_temperature(fitted_on, self.validation.y)
        if temperature is not None:
            scaled = metrics.measure(metrics.softmax(z / temperature), y, self.reference, bins)
            found["scaled"] = {
                "temperature": temperature,
                **{name: scaled[name] for name in SCALED},
                "fitted": _fitted(fitted_on, self.validation.y, temperature),
            }
        return found


def _fitted(z: NDArray[np.floating], y: NDArray[np.int64], temperature: float) -> dict[str, float]:
    """What a temperature gained where it was fitted: NLL before and after, and the standard error of the difference.

    A gain of less than two standard errors is one that chance alone may give.
    """
    before, after = (-metrics.logarithm(metrics.softmax(z / t))[np.arange(len(y)), y] for t in (1.0, temperature))
    error = float(np.std(before - after, ddof=1) / np.sqrt(len(y))) if len(y) > 1 else 0.0
    return {"n": len(y), "nll_before": float(before.mean()), "nll": float(after.mean()), "error": error}


def _ensemble(recipe: Recipe, outputs: Outputs) -> Probabilities:
    weights = [recipe.fusion.weights.get(seed, 1.0) for seed in recipe.fused_seeds]
    return fuse(recipe.fusion.rule, outputs.logits, weights)


def fuse(rule: str, logits: NDArray[np.float32], weights: Sequence[float]) -> Probabilities:
    """(N, C) the probabilities at T = 1 of (M, N, C) members; weights are relative."""
    share = torch.tensor(weights, dtype=torch.float64)
    fused: Probabilities = RULES[rule](torch.from_numpy(logits).double(), 1.0, share / share.sum()).numpy()
    return fused


def _by_size(recipe: Recipe, outputs: Outputs) -> list[dict[str, Any]]:
    """Ensembles of 1 to all members, over all subsets or as many seeded random ones."""
    weights = np.array([recipe.fusion.weights.get(seed, 1.0) for seed in recipe.fused_seeds])
    members = len(weights)
    rows = []
    for size in range(1, members + 1):
        subsets = list(itertools.islice(itertools.combinations(range(members), size), 1000))
        if len(subsets) > MOST_SUBSETS:
            random = generator(recipe.seed, 3, size)
            subsets = [tuple(random.permutation(members)[:size].tolist()) for _ in range(MOST_SUBSETS)]
        measured = []
        for subset in map(list, subsets):
            p = fuse(recipe.fusion.rule, outputs.logits[subset], weights[subset].tolist())
            measured.append(metrics.measure(p, outputs.y, p.argmax(1), recipe.evaluate.bins))
        row: dict[str, Any] = {"members": size, "subsets": len(subsets)}
        for name in ("accuracy", *SCALED):
            row[name] = _range([m[name] for m in measured])
        rows.append(row)
    return rows


def _range(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "min": min(values), "max": max(values), "std": float(np.std(values))}


def _diversity(outputs: Outputs) -> dict[str, Any]:
    logits = torch.from_numpy(outputs.logits)
    found: dict[str, Any] = diversity.summary(logits)
    if len(logits) <= MOST_PAIRS:
        found["pairs"] = diversity.pairwise_disagreement(logits.argmax(-1)).tolist()
    return found


def _means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several seeds the mean of every number that all have."""
    means: dict[str, Any] = {}
    for name, value in runs[0].items():
        if name == "seed" or any(name not in run for run in runs):
            continue
        values = [run[name] for run in runs]
        means[name] = _means(values) if isinstance(value, dict) else value if len(runs) == 1 else float(np.mean(values))
    return {**means, "n": runs[0]["n"]} if "n" in runs[0] else means

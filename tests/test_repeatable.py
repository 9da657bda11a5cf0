"""The first numbers of a process are those of the next, whichever vector kernel its first thread is given."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from kdscale.ensemble import comparison
from kdscale.ensemble.comparison import Outputs
from kdscale.pipeline import measuring
from kdscale.pipeline.measuring import Labelled
from kdscale.recipe import Recipe
from kdscale.repeatable import settle
from kdscale.training.engine import use_device

DIVERSITY = """
import torch
from kdscale.ensemble import diversity
generator = torch.Generator().manual_seed(0)
print(diversity.summary(torch.randn(3, 400, 10, generator=generator) * 4))
"""
LOGITS = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
Y = np.arange(30) % 3


def measure() -> None:
    model = {"name": "mlp", "hidden": [4]}
    trained = {"teachers": {"count": 2, "model": model}, "student": {"model": model}}
    recipe = Recipe.model_validate({"name": "two", "data": {"source": "digits"}, **trained})
    measuring.measure(recipe, Labelled(Y, {f"teacher-seed-{seed}": LOGITS[seed] for seed in range(2)}), None)


def compare() -> None:
    comparison.compare(["mean_logit"], Outputs(LOGITS, Y), None, 10)


@pytest.mark.parametrize("begin", [lambda: use_device(torch.get_num_threads(), 0), measure, compare])
def test_the_vector_functions_are_called_on_one_number_before_any_other(
    begin: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    exp = torch.exp

    def seen(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.numel())
        return exp(x)

    monkeypatch.setattr(torch, "exp", seen)
    settle.cache_clear()
    begin()
    assert sizes[:2] == [1, 1]


def test_diversity_is_the_same_with_the_kernel_that_a_race_would_give() -> None:
    """MKL takes the number of another kind of CPU from its environment, and with it kernels of another accuracy."""
    printed = [
        subprocess.run(
            [sys.executable, "-c", DIVERSITY], env={**os.environ, **more}, capture_output=True, text=True, check=True
        ).stdout
        for more in ({}, {"MKL_VML_DEBUG_CPU_TYPE": "9"})
    ]
    assert printed[0] == printed[1]

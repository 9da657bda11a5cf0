"""Gaussian inputs with labels from a target function: data without any structure that a net could have several views of.

Allen-Zhu & Li 2023 (section 1 and appendix) train nets on such inputs, with labels of several kinds of functions, and find no
gain of an ensemble over a single net there.

    data:
      source: kdscale.data.generated.gaussian:load
      options: { target: network, dimension: 64 }
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdscale.data.generated import refuse_path
from kdscale.errors import UserError
from kdscale.seeds import generator

TARGETS = ("linear", "quadratic", "network", "cosine", "nearest")
Target = Literal["linear", "quadratic", "network", "cosine", "nearest"]

REFERENCE = 20000
"""Inputs on which the functions are standardised, the same for all splits."""


def load(
    path: str | None = None,
    target: Target = "network",
    k: int = 10,
    dimension: int = 64,
    train: int = 5000,
    test: int = 5000,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Arrays (N, d) of standard normal numbers, and as labels the largest of `k` functions of them.

    Args:
        target: linear: w_c x; quadratic: x' A_c x; network: a random ReLU net of 64 hidden units; cosine: a random net of 64
            cosines; nearest: the nearest of random centres.
        noise: standard deviation of Gaussian noise on the functions' standardised values.
    """
    refuse_path(path, "Gaussian inputs")
    if target not in TARGETS:
        raise UserError(f"data.options.target: there is no target {target}; take one of {', '.join(TARGETS)}")
    made: dict[str, Any] = {}
    reference = values(generator(seed, 23).standard_normal((REFERENCE, dimension)), target, k, seed)
    mean, spread = reference.mean(0), reference.std(0)
    for number, (split, count) in enumerate((("train", train), ("test", test))):
        random = generator(seed, 22, number)
        x = random.standard_normal((count, dimension))
        score = values(x, target, k, seed)
        score = (score - mean) / spread  # so that all classes are about as frequent
        score += noise * random.standard_normal(score.shape)
        made[f"x_{split}"], made[f"y_{split}"] = x.astype(np.float32), score.argmax(1)
    return made


def values(x: NDArray[np.float64], target: Target, classes: int, seed: int) -> NDArray[np.float64]:
    """(N, C) what each class's function says of (N, d) inputs."""
    random, dimension, units = generator(seed, 21), x.shape[1], 64
    if target == "linear":
        return np.asarray(x @ random.standard_normal((dimension, classes)))
    if target == "quadratic":
        forms = random.standard_normal((classes, dimension, dimension)) / dimension
        return np.asarray(np.einsum("nd,cde,ne->nc", x, forms, x, optimize=True))
    if target == "nearest":
        centres = random.standard_normal((classes, dimension))
        return np.asarray(2 * x @ centres.T - (centres**2).sum(1))
    hidden = x @ random.standard_normal((dimension, units)) / dimension**0.5
    active = np.maximum(hidden, 0) if target == "network" else np.cos(2 * hidden)
    return np.asarray(active @ random.standard_normal((units, classes)))

"""Metrics of predictions: pure functions of probabilities and labels, in float64.

Brier is the sum over classes of squared differences (range 0 to 2), ECE the expected calibration error over
equal-width bins of the top probability (Guo et al. 2017).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
"""(N, C), rows summing to one."""
Labels = NDArray[np.int64]
TEMPERATURES = (0.01, 100.0)
"""Between these a temperature is fitted."""


def measure(p: Probabilities, y: Labels, reference: Labels, bins: int) -> dict[str, float | int]:
    """The numbers of one model; `reference` (N,) are the ensemble's predictions, for the agreement."""
    predicted = p.argmax(1)
    errors = int((predicted != y).sum())
    of_label = p[np.arange(len(y)), y]
    return {
        "accuracy": 1 - errors / len(y),
        "errors": errors,
        "n": len(y),
        "nll": float(-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean()),
        "brier": float(((p**2).sum(1) - 2 * of_label + 1).mean()),
        "ece": calibration_error(reliability(p, y, bins)),
        "agreement": float((predicted == reference).mean()),
    }


def reliability(p: Probabilities, y: Labels, bins: int) -> list[dict[str, Any]]:
    """The reliability diagram: for each bin of the top probability its count, mean confidence and accuracy."""
    confidence, right = p.max(1), p.argmax(1) == y
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = place == b
        count = int(inside.sum())
        rows.append(
            {
                "low": float(edges[b]),
                "high": float(edges[b + 1]),
                "count": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(right[inside].mean()) if count else None,
            }
        )
    return rows


def calibration_error(diagram: list[dict[str, Any]]) -> float:
    """Mean distance of accuracy and confidence, weighted by the bins' counts."""
    total = sum(row["count"] for row in diagram)
    gaps = (row["count"] * abs(row["accuracy"] - row["confidence"]) for row in diagram if row["count"])
    return float(sum(gaps) / total)


def confusion(p: Probabilities, y: Labels) -> list[list[int]]:
    """(C, C) counts, a row a label, a column a prediction."""
    classes = p.shape[1]
    counts = np.bincount(y * classes + p.argmax(1), minlength=classes * classes)
    return counts.reshape(classes, classes).tolist()


def divergence(p: Probabilities, q: Probabilities) -> float:
    """Mean KL(p || q) in nats: how far q is from p (with agreement, the fidelity of Stanton et al. 2021)."""
    return float((p * (logarithm(p) - logarithm(q))).sum(1).mean())


def fit_temperature(logits: NDArray[np.floating], y: Labels) -> float | None:
    """The T that minimises the NLL of softmax(z / T): temperature scaling (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T with the derivative mean(E_p[z] - z_y), whose zero is found by Newton's steps, halving the
    bracket where one would leave it. None where there is no such T: on samples without an error a sharper model is always
    better, on those that are guessed a flatter one.
    """
    z = logits.astype(np.float64)
    z = z - z.max(1, keepdims=True)
    of_label = z[np.arange(len(y)), y].mean()

    def slopes(inverse: float) -> tuple[float, float]:
        p = softmax(inverse * z)
        expected = (p * z).sum(1)
        return float(expected.mean() - of_label), float(((p * z**2).sum(1) - expected**2).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slopes(low)[0] >= 0 or slopes(high)[0] <= 0:
        return None
    inverse = 1.0
    for _ in range(100):
        first, second = slopes(inverse)
        low, high = (inverse, high) if first < 0 else (low, inverse)
        newton = inverse - first / second if second > 0 else math.inf
        moved = newton if low < newton < high else (low + high) / 2
        if abs(moved - inverse) <= 1e-12 * inverse:
            break
        inverse = moved
    return 1 / inverse


def logarithm(p: Probabilities) -> NDArray[np.float64]:
    """Logits of a distribution, for what takes logits: log p, finite where p is 0."""
    values: NDArray[np.float64] = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return values


def softmax(logits: NDArray[np.floating]) -> Probabilities:
    """(..., C) logits to float64 probabilities."""
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    p: Probabilities = e / e.sum(-1, keepdims=True)
    return p

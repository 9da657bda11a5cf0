"""Metrics of predictions: pure functions of probabilities and labels, in float64.

Brier is the sum over classes of squared differences (range 0 to 2), ECE the expected calibration error over
equal-width bins of the top probability (Guo et al. 2017).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
"""(N, C), rows summing to one."""
Labels = NDArray[np.int64]


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


def softmax(logits: NDArray[np.floating]) -> Probabilities:
    """(..., C) logits to float64 probabilities."""
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    p: Probabilities = e / e.sum(-1, keepdims=True)
    return p

"""Metrics, against hand-made cases and torchmetrics' definitions."""

import numpy as np
import pytest

from kdscale.training import metrics


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return metrics.softmax(random.normal(size=(400, 5)) * 2), random.integers(0, 5, 400)


def test_numbers_by_hand() -> None:
    p = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    y = np.array([0, 0, 0, 1])
    seen = metrics.measure(p, y, np.array([0, 1, 1, 0]), 10)
    assert (seen["errors"], seen["accuracy"], seen["n"], seen["agreement"]) == (2, 0.5, 4, 0.75)
    assert seen["nll"] == pytest.approx(-np.log([0.8, 0.4, 0.9, 0.5]).mean())
    assert seen["brier"] == pytest.approx(np.mean([0.08, 0.72, 0.02, 0.5]))
    # bins (.4,.5] one wrong at .5; (.5,.6] one wrong at .6; (.7,.8] one right at .8; (.8,.9] one right at .9
    assert seen["ece"] == pytest.approx((0.5 + 0.6 + 0.2 + 0.1) / 4)


def test_calibration_error_is_torchmetrics(predictions) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    p, y = predictions
    theirs = functional.multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(y), num_classes=5, n_bins=15, norm="l1"
    )
    assert metrics.calibration_error(metrics.reliability(p, y, 15)) == pytest.approx(float(theirs), abs=1e-6)


def test_every_sample_is_in_one_bin(predictions) -> None:
    p, y = predictions
    p[0] = [1, 0, 0, 0, 0]
    assert sum(row["count"] for row in metrics.reliability(p, y, 15)) == len(y)


def test_confusion_counts_labels_by_rows() -> None:
    p = np.eye(3)[[0, 1, 1, 2]]
    assert metrics.confusion(p, np.array([0, 1, 2, 2])) == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_certain_and_wrong_is_bad_but_finite() -> None:
    assert np.isfinite(metrics.measure(np.array([[1.0, 0.0]]), np.array([1]), np.array([1]), 15)["nll"])


def test_divergence_by_hand() -> None:
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    by_hand = [0.5 * np.log(2) + 0.5 * np.log(2 / 3), np.log(2)]
    assert metrics.divergence(p, q) == pytest.approx(np.mean(by_hand))
    assert metrics.divergence(p, p) == 0
    assert np.isfinite(metrics.divergence(q, p))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.7, 40.0])
def test_the_temperature_of_labels_is_found(temperature: float) -> None:
    """Labels are drawn from softmax(z / T)."""
    random = np.random.default_rng(0)
    z = 3 * temperature * random.normal(size=(50_000, 6))
    y = (metrics.softmax(z / temperature).cumsum(1) < random.random((50_000, 1))).sum(1).clip(0, 5)
    assert metrics.fit_temperature(z, y) == pytest.approx(temperature, rel=0.02)


def test_the_fitted_temperature_is_the_best_of_a_grid() -> None:
    def nll(t: float) -> float:
        return -np.log(metrics.softmax(z / t)[np.arange(200), y]).mean()

    random = np.random.default_rng(1)
    z, y = random.normal(size=(200, 4)) * 5, random.integers(0, 4, 200)
    z[np.arange(200), y] += 4
    fitted = metrics.fit_temperature(z, y)
    assert fitted is not None
    assert nll(fitted) <= min(nll(t) for t in np.geomspace(0.05, 50, 2000))


def test_no_temperature_is_the_best_without_errors_or_without_sense() -> None:
    right = 9 * np.eye(3)
    assert metrics.fit_temperature(right, np.arange(3)) is None
    assert metrics.fit_temperature(right, np.array([1, 2, 0])) is None
    assert metrics.fit_temperature(np.zeros((3, 3)), np.arange(3)) is None

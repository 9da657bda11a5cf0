"""A specialist trained on half own, half other examples is calibrated once its dustbin is shifted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from kdscale.errors import UserError
from kdscale.specialists.dustbin import corrected, priors, shift

SHARE = st.floats(0.001, 0.999)


@given(SHARE, SHARE)
def test_exact_shift_turns_sampled_odds_into_true_odds(prior, sampled):
    odds = (1 - sampled) / sampled * math.exp(shift(prior, sampled))
    assert odds == pytest.approx((1 - prior) / prior)


@given(SHARE)
def test_half_own_examples_need_the_log_odds_of_the_prior(prior):
    assert shift(prior) == pytest.approx(math.log((1 - prior) / prior))
    assert shift(prior, rule="paper") == pytest.approx(math.log(0.5 / prior))
    assert shift(prior) - shift(prior, rule="paper") == pytest.approx(math.log((1 - prior) / 0.5))


def draw(counts: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points of three Gaussians: two own classes and the rest."""
    y = np.repeat([0, 1, 2], counts)
    return np.array([[0.0, 0.0], [1.5, 0.0], [0.7, 1.2]])[y] + rng.normal(size=(len(y), 2)), y


def test_calibration_on_data_as_it_comes():
    prior, rng = 0.05, np.random.default_rng(0)
    x, y = draw([10_000, 10_000, 20_000], rng)
    model = LogisticRegression().fit(x, y)
    x, y = draw([5_000, 5_000, 190_000], rng)
    logits = torch.tensor(model.decision_function(x))

    def dustbin(by: float) -> torch.Tensor:
        return corrected(logits, by).softmax(1)[:, 2]

    exact, paper, plain = (dustbin(by) for by in (shift(prior), shift(prior, rule="paper"), 0.0))
    assert abs(exact.mean() - (1 - prior)) < 0.002
    for low, high in ((0.5, 0.8), (0.8, 0.95), (0.95, 1.0)):  # within bins of confidence too
        inside = (exact >= low) & (exact < high)
        assert abs(exact[inside].mean() - (y[inside.numpy()] == 2).mean()) < 0.02
    assert plain.mean() < paper.mean() < exact.mean()


def test_a_shift_for_each_row_and_only_of_the_dustbin():
    logits = torch.zeros(2, 3)
    assert corrected(logits, torch.tensor([1.0, 2.0])).tolist() == [[0, 0, 1], [0, 0, 2]]


def test_priors_from_counts():
    members = torch.tensor([[True, True, False], [False, True, False]])
    assert priors(torch.tensor([10, 30, 60]), members).tolist() == pytest.approx([0.4, 0.3])


@pytest.mark.parametrize(("prior", "rule"), [(0.0, "exact"), (1.0, "exact"), (0.1, "other")])
def test_refuses(prior, rule):
    with pytest.raises(UserError, match="dustbin"):
        shift(prior, rule=rule)

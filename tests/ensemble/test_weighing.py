"""Weights of members: known mixtures are found, and the fitting split never gets worse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kdscale.ensemble import weighing
from kdscale.ensemble.fusion import mean_logit, mean_probability


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nll(p: torch.Tensor, y: torch.Tensor) -> float:
    return float(functional.nll_loss(p.double().log(), y))


def test_a_member_with_half_the_nll_counts_twice() -> None:
    y = torch.zeros(4, dtype=torch.long)
    half, quarter = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    z = torch.stack([half.expand(4, 2), quarter.expand(4, 2)])
    assert weighing.by_nll(z, y).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_member_that_is_never_wrong_leaves_the_weights_finite() -> None:
    z = torch.tensor([[[500.0, 0.0]], [[0.0, 0.0]]])
    for fit in (weighing.by_nll, weighing.stack_probabilities, weighing.stack_logits):
        weights = fit(z, torch.tensor([0]))
        assert weights.isfinite().all()
        assert weights[0] >= weights[1]


def test_the_weights_of_a_known_mixture_are_found() -> None:
    """Labels are drawn from 0.6 p_0 + 0.3 p_1 + 0.1 p_2."""
    z = 3 * torch.randn(3, 20_000, 4, generator=generator(0))
    truth = torch.tensor([0.6, 0.3, 0.1])
    y = torch.multinomial(mean_probability(z, 1.0, truth), 1, generator=generator(1))[:, 0]
    assert weighing.stack_probabilities(z, y).tolist() == pytest.approx(truth.tolist(), abs=0.03)


def test_the_weights_of_a_known_pool_are_found() -> None:
    z = 3 * torch.randn(3, 20_000, 4, generator=generator(2))
    truth = torch.tensor([0.7, 0.3, 0.0])
    y = torch.multinomial(mean_logit(z, 1.0, truth), 1, generator=generator(3))[:, 0]
    assert weighing.stack_logits(z, y).tolist() == pytest.approx(truth.tolist(), abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 20.0]))
def test_stacking_is_never_worse_than_equal_weights_where_it_is_fitted(
    members: int, samples: int, seed: int, scale: float
) -> None:
    z = scale * torch.randn(members, samples, 3, generator=generator(seed), dtype=torch.float64)
    y = torch.randint(3, (samples,), generator=generator(seed + 1))
    for fit, rule in ((weighing.stack_probabilities, mean_probability), (weighing.stack_logits, mean_logit)):
        weights = fit(z, y)
        assert float(weights.sum()) == pytest.approx(1)
        assert (weights >= 0).all()
        assert nll(rule(z, 1.0, weights), y) <= nll(rule(z, 1.0), y) + 1e-12


def test_stacking_is_the_minimum_over_the_simplex() -> None:
    z = 2 * torch.randn(2, 60, 3, generator=generator(5), dtype=torch.float64)
    y = torch.randint(3, (60,), generator=generator(6))
    for fit, rule in ((weighing.stack_probabilities, mean_probability), (weighing.stack_logits, mean_logit)):
        grid = min(nll(rule(z, 1.0, torch.tensor([w, 1 - w])), y) for w in np.linspace(0, 1, 401).tolist())
        assert nll(rule(z, 1.0, fit(z, y)), y) <= grid + 1e-6


def test_a_readout_of_features_finds_what_each_member_sees_of_the_label() -> None:
    """Of four classes one member's features tell the tens, the other's the ones."""
    y = torch.arange(400) % 4
    features = torch.randn(2, 400, 3, generator=generator(7)) * 0.3
    features[0, :, 1] += (y // 2) * 2.0
    features[1, :, 2] += (y % 2) * 2.0
    fitted = weighing.stack_features(features[:, :200], y[:200], 4)
    assert (fitted(features[:, 200:]).argmax(-1) == y[200:]).double().mean() > 0.97
    alone = weighing.stack_features(features[:1, :200], y[:200], 4)
    assert (alone(features[:1, 200:]).argmax(-1) == y[200:]).double().mean() < 0.7


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features = torch.randn(1, 30, 2, generator=generator(8))
    features[:, :, 1] = 5
    assert weighing.stack_features(features, torch.arange(30) % 2, 2)(features).isfinite().all()

"""Fusion rules on hand-made members."""

import torch

from kdscale.ensemble.fusion import RULES, mean_logit, mean_probability

Z = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 3.0, 1.0]]], dtype=torch.float64)


def test_mean_probability_is_the_arithmetic_mean_of_softened_predictions() -> None:
    expected = ((Z[0] / 2).softmax(-1) + (Z[1] / 2).softmax(-1)) / 2
    assert torch.allclose(mean_probability(Z, 2.0).double(), expected, atol=1e-6)


def test_mean_logit_is_the_normalised_geometric_mean() -> None:
    geometric = (Z[0].softmax(-1) * Z[1].softmax(-1)).sqrt()
    assert torch.allclose(mean_logit(Z, 1.0).double(), geometric / geometric.sum(), atol=1e-6)


def test_rules_give_distributions_and_agree_on_one_member() -> None:
    z = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))
    for rule in RULES.values():
        assert torch.allclose(rule(z, 3.0).sum(-1), torch.ones(7))
        assert torch.allclose(rule(z[:1], 3.0), (z[0] / 3).softmax(-1))
        assert torch.allclose(rule(z[[2, 0, 3, 1]], 3.0), rule(z, 3.0), atol=1e-6)

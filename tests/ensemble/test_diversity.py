"""Diversity of hand-made members."""

import pytest
import torch

from kdscale.ensemble import diversity


def test_disagreement_by_hand() -> None:
    pairs = diversity.pairwise_disagreement(torch.tensor([[0, 1, 2, 2], [0, 1, 1, 1], [0, 1, 2, 1]]))
    assert pairs.tolist() == [[0, 0.5, 0.25], [0.5, 0, 0.25], [0.25, 0.25, 0]]
    assert diversity.mean_of_pairs(pairs) == pytest.approx(1 / 3)


def test_members_that_are_one_and_the_same() -> None:
    z = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0))
    for members in (z, z.expand(3, -1, -1)):
        seen = diversity.summary(members)
        assert seen["disagreement"] == 0
        assert seen["mutual_information"] == pytest.approx(0, abs=1e-6)
        assert seen["entropy"] == pytest.approx(seen["mean_entropy"], abs=1e-6)


def test_mutual_information_is_the_divergence_from_the_mean() -> None:
    p = torch.randn(4, 50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    divergence = (p * (p / p.mean(0)).log()).sum(-1).mean()
    assert diversity.summary(p.log())["mutual_information"] == pytest.approx(float(divergence), rel=1e-5)

"""Objectives: the paper's equations, checked by finite differences."""

import pytest
import torch
import torch.nn.functional as F

from kdscale.data.batches import Batch
from kdscale.training import objectives

N = 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    z = logits.clone().requires_grad_()
    objectives.soft_divergence(z, targets, temperature).backward()
    assert z.grad is not None
    return z.grad * len(z)


def test_soft_term_is_t_squared_cross_entropy_less_the_entropy() -> None:
    z, v = random(5, N), random(5, N, seed=1)
    p = (v / 3).softmax(1)
    expected = 9 * (p * (p.log() - (z / 3).log_softmax(1))).sum(1).mean()
    assert torch.allclose(objectives.soft_divergence(z, p, 3.0).double(), expected, rtol=1e-5)
    assert float(objectives.soft_divergence(v, p, 3.0)) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(objectives.soft_divergence(z, torch.eye(N, dtype=torch.float64)[:5], 3.0))


def test_gradient_is_t_times_the_difference_of_distributions() -> None:
    """Hinton et al., equation 2: dC/dz = (q - p) / T, here times T squared."""
    z, v, t = random(5, N), random(5, N, seed=1), 2.5
    p, q = (v / t).softmax(1), (z / t).softmax(1)
    assert torch.allclose(gradient(z, p, t), t * (q - p), atol=1e-6)


def test_high_temperature_matches_logits() -> None:
    """Equations 3 and 4: with zero-mean logits T^2 dC/dz tends to (z - v) / N as T grows."""
    z, v = random(5, N), random(5, N, seed=1)
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    errors = [(gradient(z, (v / t).softmax(1), t) - (z - v) / N).abs().max() for t in (10.0, 30.0, 100.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_finite_differences_at_a_high_temperature() -> None:
    z, v, t, step = random(2, N), random(2, N, seed=1), 100.0, 0.5
    p = (v / t).softmax(1)
    exact = gradient(z, p, t) / len(z)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return -(p * (logits / t).log_softmax(1)).sum(1).mean() * t**2

    for i in range(N):
        shift = torch.zeros_like(z)
        shift[0, i] = step
        numeric = (loss(z + shift) - loss(z - shift)) / (2 * step)
        assert abs(float(numeric - exact[0, i])) < 1e-4


def test_hard_weight_is_relative_and_at_temperature_one() -> None:
    z, p, y = random(4, N), random(4, N, seed=2).softmax(1), torch.tensor([0, 1, 2, 3])
    losses = objectives.distillation(4.0, 0.3)(z, Batch(z, y, p))
    expected = objectives.soft_divergence(z, p, 4.0) + 0.3 * F.cross_entropy(z.float(), y)
    assert torch.allclose(losses["loss"], expected)
    assert set(objectives.distillation(4.0, 0.0)(z, Batch(z, y, p))) == {"loss", "soft"}
    assert torch.allclose(objectives.hard(z, Batch(z, y))["loss"], F.cross_entropy(z.float(), y))

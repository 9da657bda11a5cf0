"""Objectives: the paper's equations, checked by finite differences."""

import numpy as np
import pyarrow as pa
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
    losses = objectives.distillation(4.0, 0.3)(z, Batch(z, y, {"p": p}))
    expected = objectives.soft_divergence(z, p, 4.0) + 0.3 * F.cross_entropy(z.float(), y)
    assert torch.allclose(losses["loss"], expected)
    assert set(objectives.distillation(4.0, 0.0)(z, Batch(z, y, {"p": p}))) == {"loss", "soft"}
    assert torch.allclose(objectives.hard(z, Batch(z, y))["loss"], F.cross_entropy(z.float(), y))


def test_a_sparse_target_that_names_every_class_is_the_dense_one() -> None:
    z, p, t = random(5, N), random(5, N, seed=3).softmax(1), 3.0
    ids = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(i)) for i in range(5)])
    sparse = {"ids": ids[:, None], "p": p.gather(1, ids)[:, None], "tail": torch.zeros(5, 1)}
    expected = objectives.soft_divergence(z, p, t)
    assert torch.allclose(objectives.sparse_divergence(z, sparse, t), expected, rtol=1e-4)


def test_the_tail_is_one_bucket_on_both_sides() -> None:
    z, p, t = random(5, N), random(5, N, seed=3).softmax(1), 2.0
    head, ids = p.topk(2, dim=1)
    sparse = {"ids": ids[:, None], "p": head[:, None], "tail": (1 - head.sum(1))[:, None]}
    q = (z / t).softmax(1)
    q_head = q.gather(1, ids)
    pair_p, pair_q = (torch.cat([a, 1 - a.sum(1, keepdim=True)], 1) for a in (head, q_head))
    expected = t**2 * (pair_p * (pair_p.log() - pair_q.log())).sum(1).mean()
    assert float(objectives.sparse_divergence(z, sparse, t)) == pytest.approx(float(expected), rel=1e-4)
    matched = {"ids": ids[:, None], "p": q_head[:, None], "tail": (1 - q_head.sum(1))[:, None]}
    assert float(objectives.sparse_divergence(z, matched, t)) == pytest.approx(0, abs=1e-5)


def test_groups_are_averaged() -> None:
    z = random(4, N)
    groups = []
    for seed in (1, 2):
        head, ids = random(4, N, seed=seed).softmax(1).topk(3, dim=1)
        groups.append({"ids": ids[:, None], "p": head[:, None], "tail": (1 - head.sum(1))[:, None]})
    both = {name: torch.cat([g[name] for g in groups], 1) for name in groups[0]}
    each = [float(objectives.sparse_divergence(z, g, 2.0)) for g in groups]
    assert float(objectives.sparse_divergence(z, both, 2.0)) == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_sampled_target_has_the_full_gradient_on_average() -> None:
    """Sparse Logit Sampling: the expected gradient is that of the whole distribution."""
    from kdscale.logits.sampled import Sampled

    z, v = random(1, N), random(1, N, seed=5)
    p = v.softmax(1)
    total = torch.zeros_like(z)
    draws = 400
    for u in range(draws):
        codec = Sampled(3)
        rows = codec.decode(pa.table(codec.encode(v.float().numpy(), np.array([(u + 0.5) / draws]))), N, 1.0)
        target = {
            "ids": torch.from_numpy(rows.ids)[:, None],
            "p": torch.from_numpy(rows.p)[:, None],
            "tail": torch.zeros(1, 1),
        }
        x = z.clone().requires_grad_()
        objectives.sparse_divergence(x, target, 1.0).backward()
        total += x.grad / draws
    assert torch.allclose(total, gradient(z, p, 1.0), atol=5e-3)


def test_certain_students_and_empty_tails_stay_finite() -> None:
    z = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    target = {"ids": torch.tensor([[[0, 1]]]), "p": torch.tensor([[[1.0, 0.0]]]), "tail": torch.tensor([[0.0]])}
    loss = objectives.sparse_divergence(z, target, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert float(loss) == pytest.approx(0, abs=1e-6)

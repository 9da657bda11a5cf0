"""Several teachers, each matched by itself, against autograd and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns
from kdscale.ensemble.targets import fused, with_groups
from kdscale.errors import UserError
from kdscale.logits.rows import Logits, Sparse
from kdscale.training import objectives
from kdscale.training.objectives import mixup

B, M, C, T = 5, 3, 7, 2.0
WEIGHTS = [1.0, 2.0, 1.0]
SHARE = torch.tensor(WEIGHTS, dtype=torch.float64) / 4
Y = torch.tensor([0, 1, 2, 3, 6])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TEACHERS = random(M, B, C, seed=1)


def rows(kind: str) -> list[Logits | Sparse]:
    if kind == "dense":
        return [Logits(v.numpy()) for v in TEACHERS]
    found: list[Logits | Sparse] = []
    for number, v in enumerate(TEACHERS):
        p, ids = (v / T).softmax(1).topk(3 + number * (kind == "sampled"), 1)  # counts may name more classes or fewer
        if kind == "sampled":
            p = p / p.sum(1, keepdim=True)
        tail = np.zeros(B) if kind == "sampled" else (1 - p.sum(1)).numpy()
        found.append(Sparse(ids.numpy(), p.numpy(), tail, counted=kind == "sampled"))
    return found


def targets(kind: str) -> Columns:
    found = fused(rows(kind), "mean_probability", T, WEIGHTS, apart=True)
    return {name: c.double() if c.is_floating_point() else c for name, c in found.items()}


def of_member(kind: str, number: int) -> Columns:
    alone = fused(rows(kind)[number : number + 1], "mean_probability", T)
    return {name: c.double() if c.is_floating_point() else c for name, c in alone.items()}


KINDS = ["dense", "topk", "sampled"]


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_head_matches_its_own_teacher(kind: str, divergence: str) -> None:
    if kind == "sampled" and divergence != "forward_kl":
        pytest.skip("counts serve forward_kl alone")
    z, reference = random(B, M, C).requires_grad_(), random(B, M, C).requires_grad_()
    objective = objectives.mimic_all(WEIGHTS, T, 0.4, 0.6, divergence)
    found = objective(z, Batch(z, Y, targets(kind)))
    found["loss"].backward()
    soft = sum(
        SHARE[i] * objectives.soft(reference[:, i], of_member(kind, i), T, divergence).double() for i in range(M)
    )
    p = (reference.softmax(2) * SHARE[:, None]).sum(1)
    hard = F.nll_loss(p.log(), Y)
    (0.6 * soft + 0.4 * hard).backward()
    assert torch.allclose(z.grad, reference.grad, atol=1e-7)
    assert float(found["loss"].detach()) == pytest.approx(float((0.6 * soft + 0.4 * hard).detach()), rel=1e-5)
    assert float(found["hard"]) == pytest.approx(float(hard.detach()), rel=1e-6)
    assert not found["soft"].requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_agree_on_mixed_batches(kind: str, smoothing: float) -> None:
    whole = Batch(random(B, 2), Y, targets(kind))
    mixed = mixup.mixed(whole, 0.3, torch.tensor([4, 3, 2, 1, 0]))
    assert mixed.targets["weight"].shape == (B, 2 * M)
    objective = objectives.mimic_all(WEIGHTS, T, 0.5, smoothing=smoothing)
    assert torch.autograd.gradcheck(lambda z: objective(z, mixed)["loss"], (random(B, M, C).requires_grad_(),))


@pytest.mark.parametrize("kind", KINDS)
def test_mixup_keeps_a_head_to_its_teacher(kind: str) -> None:
    whole, order, lam = Batch(random(B, 2), Y, targets(kind)), torch.tensor([4, 3, 2, 1, 0]), 0.3
    objective = objectives.mimic_all(WEIGHTS, T, 0.0)
    z, apart = random(B, M, C).requires_grad_(), random(B, M, C).requires_grad_()
    objective(z, mixup.mixed(whole, lam, order))["loss"].backward()
    other = Batch(whole.x, whole.y[order], {name: column[order] for name, column in whole.targets.items()})
    (lam * objective(apart, whole)["loss"] + (1 - lam) * objective(apart, other)["loss"]).backward()
    assert torch.allclose(z.grad, apart.grad, atol=1e-7)


def test_heads_that_match_their_teachers_have_no_soft_loss() -> None:
    z = TEACHERS.transpose(0, 1).contiguous()
    assert float(objectives.mimic_all(WEIGHTS, T, 0.0)(z, Batch(z, Y, targets("dense")))["loss"]) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_mean_of_losses_is_the_mean_of_each_teachers_loss(divergence: str) -> None:
    z, reference = random(B, C).requires_grad_(), random(B, C).requires_grad_()
    objectives.distillation(T, 0.0, divergence=divergence, each=True)(z, Batch(z, Y, targets("dense")))[
        "loss"
    ].backward()
    sum(SHARE[i] * objectives.soft(reference, of_member("dense", i), T, divergence) for i in range(M)).backward()
    assert torch.allclose(z.grad, reference.grad, atol=1e-7)
    mean = random(B, C).requires_grad_()
    objectives.distillation(T, 0.0, divergence=divergence)(mean, Batch(z, Y, targets("dense")))["loss"].backward()
    assert torch.allclose(z.grad, mean.grad, atol=1e-7) == (divergence == "forward_kl")


def test_a_member_that_is_not_there_yet_weighs_nothing_at_its_place() -> None:
    found = with_groups(fused(rows("topk")[1:], "mean_probability", T, apart=True), M, [1, 2])
    assert found["weight"].tolist() == [[0.0, 0.5, 0.5]] * B
    z = random(B, M, C).requires_grad_()
    objectives.mimic_all(WEIGHTS, T, 0.0)(z, Batch(z, Y, found))["loss"].backward()
    assert not z.grad[:, 0].any()
    assert z.grad[:, 1:].any()


def test_logits_that_are_mixed_first_have_no_single_teachers() -> None:
    with pytest.raises(UserError, match="mean_logit"):
        fused(rows("dense"), "mean_logit", T, apart=True)

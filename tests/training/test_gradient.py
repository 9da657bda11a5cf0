"""The gradient written in place, against plain autograd and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.data.columns import Columns
from kdscale.training import objectives
from kdscale.training.objectives import gradient as written
from kdscale.training.objectives import mixup
from kdscale.training.objectives.divergences import DIVERGENCES
from kdscale.training.objectives.gradient import Labels, Terms

B, C = 5, 7
KINDS = ["dense", "topk", "sampled", "open"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def target(kind: str) -> Columns:
    weight = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(B, 2).contiguous()
    if kind == "dense":
        return {"p": random(B, C, seed=1).softmax(1)}
    if kind == "open":
        return {"logits": random(B, 2, C, seed=1), "weight": weight}
    if kind == "topk":
        p, ids = random(B, 2, C, seed=1).softmax(2).topk(3, 2)
        return {"ids": ids, "p": p, "tail": 1 - p.sum(2), "weight": weight}
    ids = torch.tensor([[[0, 2, 2, 5, 0]]]).expand(B, 1, 5).contiguous()  # a class twice, and an empty slot
    p = torch.tensor([[[0.25, 0.25, 0.25, 0.25, 0.0]]], dtype=torch.float64).expand(B, 1, 5).contiguous()
    return {"ids": ids, "p": p, "tail": torch.zeros(B, 1, dtype=torch.float64)}


def plain(z: Tensor, columns: Columns, labels: Labels, terms: Terms) -> Tensor:
    """The same by autograd: the reference."""
    t = terms.temperature
    log_q = (z / t).log_softmax(1)
    if "ids" in columns:
        log_head = log_q[:, None].expand(-1, columns["ids"].shape[1], -1).gather(2, columns["ids"])
        p, logs = columns["p"], log_head
        if bool((columns["tail"] > 0).any()):
            rest = (1 - log_head.exp().sum(2, keepdim=True)).log()
            p, logs = torch.cat([p, columns["tail"][..., None]], 2), torch.cat([log_head, rest], 2)
        weight = columns.get("weight", torch.ones(B, 1, dtype=z.dtype))
    else:
        p = (
            columns["p"]
            if "p" in columns
            else (columns["logits"] / t).softmax(2).mul(columns["weight"][..., None]).sum(1)
        )
        p, logs, weight = p[:, None], log_q[:, None], torch.ones(B, 1, dtype=z.dtype)
    q, name = logs.exp(), next(name for name, way in DIVERGENCES.items() if way is terms.divergence)
    kl = {
        "forward_kl": lambda: F.kl_div(logs, p, reduction="none"),
        "reverse_kl": lambda: q * (logs - p.log()),
        "jensen_shannon": lambda: (
            (F.kl_div(((p + q) / 2).log(), p, reduction="none") + q * (logs - ((p + q) / 2).log())) / 2
        ),
    }[name]()
    loss = terms.soft_weight * t**2 * (kl.sum(2) * weight).sum(1).mean()
    own = F.cross_entropy(z, labels.y, reduction="none", label_smoothing=terms.smoothing)
    if labels.other is not None:
        other = F.cross_entropy(z, labels.other, reduction="none", label_smoothing=terms.smoothing)
        own = labels.share * own + (1 - labels.share) * other
    return loss + terms.hard_weight * own.mean()


LABELS = Labels(torch.tensor([0, 1, 2, 3, 6]))
PAIRS = Labels(LABELS.y, LABELS.y.flip(0), torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64))
TERMS = {
    "soft": Terms(3.0),
    "at one": Terms(1.0, 0.6, 0.4),
    "convex": Terms(2.0, 0.75, 0.25),
    "smoothed": Terms(4.0, 1.0, 0.5, smoothing=0.1),
    "smoothed at one": Terms(1.0, 1.0, 0.5, smoothing=0.1),
    "reverse": Terms(2.0, 1.0, 0.2, DIVERGENCES["reverse_kl"]),
    "jensen_shannon": Terms(2.0, 1.0, 0.2, DIVERGENCES["jensen_shannon"]),
}
CASES = [
    (kind, name) for kind in KINDS for name in TERMS if kind != "sampled" or name not in ("reverse", "jensen_shannon")
]


@pytest.mark.parametrize("labels", [LABELS, PAIRS], ids=["one label", "two labels"])
@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("part", [1 << 20, 2 * C], ids=["whole", "in parts"])
def test_loss_and_gradient_are_those_of_autograd(kind, name, labels, part, monkeypatch) -> None:
    monkeypatch.setattr(written, "PART", part)
    z, columns, terms = random(B, C), target(kind), TERMS[name]
    ours, reference = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = written.losses(ours, columns, labels, terms)[0]
    expected = plain(reference, columns, labels, terms)
    (loss * 1.5).backward()
    (expected * 1.5).backward()
    assert torch.allclose(ours.grad, reference.grad, atol=1e-9)
    if kind != "sampled":
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-8)
    else:
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_finite_differences_agree(kind, name) -> None:
    columns, terms = target(kind), TERMS[name]
    z = random(B, C).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: written.losses(x, columns, PAIRS, terms)[0], (z,))


def test_the_parts_of_the_loss_are_told() -> None:
    z, columns = random(B, C), target("dense")
    loss, soft, hard = written.losses(z.requires_grad_(), columns, LABELS, Terms(2.0, 0.75, 0.25))
    assert not soft.requires_grad
    assert float(hard.detach()) == pytest.approx(float(F.cross_entropy(z, LABELS.y).detach()))
    assert float(loss.detach()) == pytest.approx(0.75 * float(soft) + 0.25 * float(hard))


def test_divergences_on_hand_values() -> None:
    """p = (1/2, 1/2), q = (3/4, 1/4) by hand."""
    z, p = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log(), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    values = [float(objectives.soft_divergence(z, p, 1.0, name)) for name in DIVERGENCES]
    assert values == pytest.approx([0.1438410, 0.1308120, 0.0338221], abs=1e-6)
    far = torch.tensor([[200.0, 0.0]], dtype=torch.float64)
    away = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert float(objectives.soft_divergence(far, away, 1.0, "jensen_shannon")) == pytest.approx(0.6931472)


@pytest.mark.parametrize("divergence", list(DIVERGENCES))
@pytest.mark.parametrize("kind", ["dense", "topk", "open"])
def test_high_temperatures_match_logits(kind: str, divergence: str) -> None:
    """Hinton et al., equation 4: T^2 dD/dz tends to (z - v) / N, for Jensen-Shannon to a quarter of it."""
    z, v = random(B, C), random(B, C, seed=1)
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    share, errors = (0.25 if divergence == "jensen_shannon" else 1.0), []
    for t in (10.0, 30.0, 100.0, 300.0):
        p = (v / t).softmax(1)
        columns: Columns = {"p": p} if kind == "dense" else {"logits": v[:, None]}
        if kind == "topk":  # all classes named
            head, ids = p.topk(C, 1)
            columns = {"ids": ids[:, None], "p": head[:, None], "tail": torch.zeros(B, 1, dtype=p.dtype)}
        x = z.clone().requires_grad_()
        objectives.soft(x, columns, t, divergence).backward()
        errors.append(float((x.grad * B - share * (z - v) / C).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.005


def test_low_precision_logits_get_gradients_of_their_type() -> None:
    z, columns = random(B, C).bfloat16(), target("topk")
    ours, wide = z.clone().requires_grad_(), z.double().requires_grad_()
    objectives.soft(ours, columns, 2.0).backward()
    objectives.soft(wide, columns, 2.0).backward()
    assert ours.grad.dtype == torch.bfloat16
    assert torch.allclose(ours.grad.double(), wide.grad, rtol=0.01, atol=1e-3)


def test_a_class_out_of_a_students_sight_keeps_its_gradient() -> None:
    z = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    columns = {"ids": torch.tensor([[[1]]]), "p": torch.tensor([[[1.0]]]), "tail": torch.tensor([[0.0]])}
    loss = objectives.soft(z, columns, 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(300)
    assert z.grad.tolist() == [[1.0, -1.0, 0.0]]


def test_nothing_is_worked_out_twice_unless_asked() -> None:
    z = random(B, C).requires_grad_()
    loss = objectives.soft(z, target("dense"), 2.0)
    loss.backward(retain_graph=True)
    first = z.grad.clone()
    loss.backward()
    assert torch.equal(z.grad, 2 * first)


def batch(kind: str) -> Batch:
    return Batch(random(B, 4, seed=7), LABELS.y, target(kind), step=3)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_targets_have_the_mixed_gradient_and_stay_sparse(kind: str) -> None:
    whole, order, lam = batch(kind), torch.tensor([4, 3, 2, 1, 0]), 0.3
    mixed = mixup.mixed(whole, lam, order)
    assert torch.allclose(mixed.x, lam * whole.x + (1 - lam) * whole.x[order])
    assert mixed.step == 3
    if "ids" in whole.targets:
        groups, named = whole.targets["ids"].shape[1:]
        assert mixed.targets["ids"].shape == (B, 2 * groups, named)
        assert torch.allclose(mixed.targets["weight"].sum(1), torch.ones(B, dtype=mixed.targets["weight"].dtype))
    objective = objectives.distillation(2.0, 0.5)
    z = random(B, C).requires_grad_()
    objective(z, mixed)["loss"].backward()
    other = Batch(whole.x, whole.y[order], {name: column[order] for name, column in whole.targets.items()})
    x = random(B, C).requires_grad_()
    (lam * objective(x, whole)["loss"] + (1 - lam) * objective(x, other)["loss"]).backward()
    assert torch.allclose(z.grad, x.grad, atol=1e-7)


def test_labelled_batches_mix_their_labels() -> None:
    mixed = mixup.mixed(Batch(random(B, 4), LABELS.y), 0.3, torch.tensor([4, 3, 2, 1, 0]))
    z = random(B, C).float()
    loss = objectives.labelled(0.1)(z, mixed)["loss"]
    apart = [F.cross_entropy(z, y, label_smoothing=0.1) for y in (LABELS.y, LABELS.y.flip(0))]
    assert torch.allclose(loss, 0.3 * apart[0] + 0.7 * apart[1])


def test_mixing_is_a_function_of_seed_step_and_rank() -> None:
    def made(seed: int, step: int, rank: int = 0) -> Tensor:
        return mixup.mixing(lambda _: batch("topk"), 0.4, seed, rank)(step).x

    assert torch.equal(made(1, 5), made(1, 5))
    assert not torch.equal(made(1, 5), made(1, 6))
    assert not torch.equal(made(1, 5), made(2, 5))
    shares = [mixup.mixing(lambda _: batch("dense"), 0.4, 1, rank)(5).targets["share"] for rank in (0, 1)]
    assert torch.equal(*shares)


def test_a_schedule_is_followed_step_by_step() -> None:
    z, whole = random(B, C), batch("open")
    objective = objectives.distillation(lambda step: 1.0 + step, 0.0)
    found = objective(z, whole)
    assert float(found["temperature"]) == 4.0
    assert float(found["loss"]) == pytest.approx(float(objectives.soft(z, whole.targets, 4.0)))

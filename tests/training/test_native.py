"""The gradient in C against the one in torch, which autograd and finite differences check in float64."""

import pytest
import torch

from kdscale.data.columns import Columns
from kdscale.training.objectives import gradient, kernels, native
from kdscale.training.objectives.gradient import Labels, Terms

B, C = 9, 1003
RANDOM = torch.Generator().manual_seed(0)
Z, V = torch.randn(B, C, generator=RANDOM) * 5, torch.randn(B, 2, C, generator=RANDOM) * 3
Y = torch.randint(C, (B,), generator=RANDOM)
LABELS = {"one label": Labels(Y), "two labels": Labels(Y, Y.flip(0), torch.rand(B, generator=RANDOM))}

built = pytest.mark.skipif(native._library() is None, reason="no C compiler")


def target(kind: str, t: float) -> Columns:
    if kind == "dense":
        return {"p": (V[:, 0] / t).softmax(1)}
    p, ids = (V / t).softmax(2).topk(9, 2)
    if kind == "sampled":
        return {"ids": ids, "p": p / p.sum(2, keepdim=True), "tail": torch.zeros(B, 2)}
    return {"ids": ids, "p": p, "tail": 1 - p.sum(2), "weight": torch.tensor([[0.3, 0.7]]).expand(B, 2)}


def found(z: torch.Tensor, columns: Columns, labels: Labels, terms: Terms) -> tuple[list[float], torch.Tensor]:
    x = z.clone().requires_grad_()
    loss, soft, hard = gradient.losses(x, columns, labels, terms)
    torch.autograd.backward(loss)
    assert x.grad is not None
    return [float(value.detach()) for value in (loss, soft, hard)], x.grad


@built
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("labels", list(LABELS))
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled"])
@pytest.mark.parametrize("t", [1.0, 4.0])
def test_it_is_the_gradient_of_torch(kind, t, labels, threads, monkeypatch) -> None:
    monkeypatch.setattr(native, "AT_ONCE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    columns = target(kind, t)
    wide = {name: c.double() if c.is_floating_point() else c for name, c in columns.items()}
    for hard, smoothing in ((0.0, 0.0), (0.3, 0.0), (0.3, 0.1)):
        terms = Terms(t, 0.7, hard, smoothing=smoothing)
        assert native.serves(Z, columns)
        values, ours = found(Z, columns, LABELS[labels], terms)
        expected, reference = found(Z.double(), wide, LABELS[labels], terms)
        assert values == pytest.approx(expected, rel=2e-5, abs=2e-5)
        assert float((ours - reference).abs().max()) < 3e-6 * float(reference.abs().max())


@built
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_finite_loss(value: float) -> None:
    z = Z.clone()
    z[3, 7] = value
    values, _ = found(z, target("topk", 2.0), LABELS["one label"], Terms(2.0, 1.0, 0.1))
    assert not any(map(torch.isfinite, map(torch.tensor, values)))


@built
@pytest.mark.parametrize("wrong", [-1, C])
def test_nothing_is_written_outside_of_the_gradient(wrong: int) -> None:
    columns = target("topk", 2.0)
    columns["ids"] = columns["ids"].clone()
    columns["ids"][2, 1, 3] = wrong
    with pytest.raises(IndexError, match=f"1 of {B} rows name a class that is not one of {C}"):
        found(Z, columns, LABELS["one label"], Terms(2.0))


def test_without_a_compiler_torch_does_the_work(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    native._library.cache_clear()
    try:
        assert not native.serves(Z, target("dense", 2.0))
        assert found(Z, target("dense", 2.0), LABELS["one label"], Terms(2.0))[0][0] > 0
    finally:
        native._library.cache_clear()


@built
def test_kernels_can_be_switched_off(monkeypatch) -> None:
    assert kernels.of(Z, target("dense", 2.0)) is native.losses
    assert kernels.agrees(native.losses, torch.device("cpu"))
    assert kernels.of(Z.double(), target("dense", 2.0)) is None
    monkeypatch.setenv("KDSCALE_KERNELS", "0")
    assert kernels.of(Z, target("dense", 2.0)) is None


@built
def test_the_process_keeps_its_subnormal_numbers() -> None:
    assert native.serves(Z, target("dense", 2.0))
    assert float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0

"""The Triton kernel against torch: by Triton's interpreter on a CPU (TRITON_INTERPRET=1), on a GPU where there is one."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from kdscale.training.objectives import gpu, gradient, kernels
from kdscale.training.objectives.gradient import Labels, Terms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
B, C = 4, 203
RANDOM = torch.Generator().manual_seed(0)
Z, V = torch.randn(B, C, generator=RANDOM) * 5, torch.randn(B, 2, C, generator=RANDOM) * 3
Y = torch.randint(C, (B,), generator=RANDOM)
LABELS = {"one label": Labels(Y), "two labels": Labels(Y, Y.flip(0), torch.rand(B, generator=RANDOM))}


def target(kind: str, t: float) -> dict[str, torch.Tensor]:
    if kind == "dense":
        return {"p": (V[:, 0] / t).softmax(1)}
    p, ids = (V / t).softmax(2).topk(9, 2)
    if kind == "sampled":
        return {"ids": ids, "p": p / p.sum(2, keepdim=True), "tail": torch.zeros(B, 2)}
    return {"ids": ids, "p": p, "tail": 1 - p.sum(2), "weight": torch.tensor([[0.3, 0.7]]).expand(B, 2)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("labels", list(LABELS))
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled"])
@pytest.mark.parametrize("t", [1.0, 4.0])
def test_it_is_the_gradient_of_torch(kind, t, labels, dtype, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "BLOCK", 64)
    z, columns, own = Z.to(dtype), target(kind, t), LABELS[labels]
    wide = {name: c.double() if c.is_floating_point() else c for name, c in columns.items()}
    for hard, smoothing in ((0.0, 0.0), (0.3, 0.1)):
        known = tuple(None if c is None else c.to(DEVICE) for c in (own.y, own.other, own.share))
        there = {name: c.to(DEVICE) for name, c in columns.items()}
        _, soft, label, ours = gpu.losses(z.to(DEVICE), there, known, t, 0.7, hard, smoothing)
        x = z.double().requires_grad_()
        loss, *parts = gradient.losses(x, wide, own, Terms(t, 0.7, hard, smoothing=smoothing))
        torch.autograd.backward(loss)
        assert [float(soft), float(label)] == pytest.approx([float(part) for part in parts], rel=1e-4, abs=1e-4)
        assert ours.dtype == dtype
        close = 3e-6 if dtype == torch.float32 else 5e-3
        assert float((ours.cpu() - x.grad).abs().max()) < close * float(x.grad.abs().max())


def test_a_class_that_is_none_makes_the_loss_nan() -> None:
    columns = target("topk", 2.0)
    columns["ids"] = columns["ids"].clone()
    columns["ids"][1, 0, 2] = C
    there = {name: c.to(DEVICE) for name, c in columns.items()}
    assert gpu.losses(Z.to(DEVICE), there, None, 2.0, 1.0, 0.0, 0.0)[0].isnan()


def test_it_passes_the_check_of_its_first_use() -> None:
    assert kernels.agrees(gpu.losses, torch.device(DEVICE))
    assert not kernels.agrees(lambda z, *_: (z.sum(), z.sum(), z.sum(), z), torch.device(DEVICE))

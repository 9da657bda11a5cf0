"""Which kernel makes the gradient of soft targets: C on a CPU, Triton on a GPU, or none, and then torch does.

KDSCALE_KERNELS=0 keeps to torch. Triton compiles for whatever GPU it finds, so its kernel is held against torch once a process,
and left out with a warning where it fails or says something else.
"""

import functools
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from kdscale.data.columns import Columns
from kdscale.training.objectives import native

Kernel = Callable[
    [Tensor, Columns, tuple[Tensor, Tensor | None, Tensor | None] | None, float, float, float, float],
    tuple[Tensor, Tensor, Tensor, Tensor],
]
"""As `native.losses`."""


def of(logits: Tensor, targets: Columns) -> Kernel | None:
    """The kernel that takes these logits and targets, if any does."""
    if os.environ.get("KDSCALE_KERNELS") == "0":
        return None
    if logits.device.type == "cpu":
        return native.losses if native.serves(logits, targets) else None
    serves = logits.device.type == "cuda" and "logits" not in targets and logits.dtype != torch.float64
    return _checked(logits.device) if serves and logits.numel() and logits.stride(1) == 1 else None


@functools.cache
def _checked(device: torch.device) -> Kernel | None:
    try:
        from kdscale.training.objectives import gpu
    except ImportError:
        return None
    try:
        if agrees(gpu.losses, device):
            return gpu.losses
        problem = "its gradient is not torch's"
    except Exception as error:  # whatever a compiler may raise
        problem = f"{type(error).__name__}: {error}"
    warnings.warn(f"the Triton kernel for soft targets is not used on {device}: {problem}", stacklevel=2)
    return None


def agrees(kernel: Kernel, device: torch.device) -> bool:
    """Whether a kernel's gradient is that of autograd for a target of three named classes, their bucket and a label."""
    z = torch.linspace(-2, 2, 5 * 99).sin().mul(3).view(5, 99).to(device).requires_grad_()
    ids = torch.tensor([3, 50, 98], device=device).expand(5, 1, 3)
    p, tail = torch.full((5, 1, 3), 0.25, device=device), torch.full((5, 1), 0.25, device=device)
    y, t = torch.arange(5, device=device), 2.0
    q = (z / t).softmax(1).gather(1, ids[:, 0])
    soft = -(p[:, 0] * q.log()).sum(1) - tail[:, 0] * (1 - q.sum(1)).log()
    torch.autograd.backward(soft.mean() * t**2 + 0.3 * torch.nn.functional.cross_entropy(z, y))
    target = {"ids": ids, "p": p, "tail": tail}
    found = kernel(z.detach(), target, (y, None, None), t, 1.0, 0.3, 0.0)[3]
    assert z.grad is not None
    return bool(torch.allclose(found, z.grad, atol=1e-5))

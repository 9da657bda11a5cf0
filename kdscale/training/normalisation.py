"""Batch normalisation beside weights of half precision: in float32, as everyone does it.

DeepSpeed's bf16 and fp16 make every parameter half as wide and leave buffers alone; PyTorch then refuses running
statistics and weights of different types, so no network with batch normalisation would train.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def normalise_in_float32(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]


def _normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What the module computes, for x and weights of any type."""
    momentum = norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # a plain mean over all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    y = F.batch_norm(
        x.float(),
        norm.running_mean,
        norm.running_var,
        None if norm.weight is None else norm.weight.float(),
        None if norm.bias is None else norm.bias.float(),
        norm.training or norm.running_mean is None,
        momentum or 0.0,
        norm.eps,
    )
    return y.to(x.dtype)

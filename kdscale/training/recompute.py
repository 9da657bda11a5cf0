"""Activation checkpointing: a model's blocks forget their activations and compute them again when gradients need them.

DeepSpeed's own `activation_checkpointing` section only sets options for models that call its function. Here the section
makes any model's blocks do it, with torch's implementation, which needs nothing of the model and keeps every bit:
random draws are repeated, and running statistics, which a second pass would move a second time, are left alone.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is computed again one by one: in every Sequential and ModuleList the modules that are made of others, innermost ones.

    A residual network's blocks, or a transformer's layers; a chain of bare layers has none.
    """
    found = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        for child in module
        if any(True for _ in child.children()) and any(True for _ in child.parameters())
    ]
    candidates = set(found)
    return [block for block in found if not any(part in candidates for part in block.modules() if part is not block)]


def recompute(model: nn.Module) -> int:
    """Make the blocks of a model forget; how many there are."""
    found = blocks(model)
    for block in found:
        again = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=again)
    return len(found)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _unmoved(block)


@contextmanager
def _unmoved(block: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count

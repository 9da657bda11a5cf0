"""Ways to train N members of one kind on two cores, for the ensemble benchmark: by hand, and as kdscale trains them.

By hand means what one would write without kdscale: a plain loop that trains one member after the other, a process for each
core that does so with its share, and one vectorised model by `torch.func`, all with fused AdamW. Every way takes the same steps on the
same made-up batches, which are there beforehand. Each way works in processes of its own, so that the threads of one do not
spin beside another.
"""

import copy
import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from kdscale.data.batches import Batch
from kdscale.ensemble import packing
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Teachers
from kdscale.training import objectives

SHAPE, CLASSES, CORES = (1, 28, 28), 10, 2
FRESH = multiprocessing.get_context("forkserver")
"""Gives processes that have loaded torch and not used it yet."""
FRESH.set_forkserver_preload(["members", "torch._dynamo"])
CPU = torch.device("cpu")
Train = Callable[[int], None]
"""Takes so many steps of every member, one member or pack after the other."""


@dataclass(frozen=True)
class Case:
    """One kind of member."""

    name: str
    model: str
    options: tuple[tuple[str, Any], ...]
    batch: int
    small: bool
    """So small that packing is expected to pay."""

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(name=self.model, **dict(self.options))

    def operations(self) -> float:
        """Floating-point operations of training on one sample, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            zoo.build(self.spec, SHAPE, CLASSES, 0)(torch.zeros(1, *SHAPE)).sum().backward()
        return float(counter.get_total_flops())


def build(case: Case, count: int) -> tuple[list[nn.Module], Tensor, Tensor]:
    models = [zoo.build(case.spec, SHAPE, CLASSES, seed) for seed in range(count)]
    return models, torch.randn(count, case.batch, *SHAPE), torch.randint(0, CLASSES, (count, case.batch))


def plain(case: Case, count: int) -> Train:
    """A loop over the members."""
    models, x, y = build(case, count)
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in models]

    def train(steps: int) -> None:
        for model, optimizer, samples, labels in zip(models, optimizers, x, y, strict=True):
            for _ in range(steps):
                F.cross_entropy(model(samples), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    return train


def vectorised(case: Case, count: int) -> Train:
    """One model, by stack_module_state and vmap."""
    models, x, y = build(case, count)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    forward = vmap(lambda p, b, samples: functional_call(base, (p, b), (samples,)))
    optimizer = torch.optim.AdamW(parameters.values(), fused=True)

    def train(steps: int) -> None:
        for _ in range(steps):
            logits = forward(parameters, buffers, x)
            (F.cross_entropy(logits.flatten(0, 1), y.flatten()) * count).backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def ours(case: Case, count: int, size: int) -> Train:
    """kdscale's engines, in packs of `size`."""
    settings = Teachers(model=case.spec, batch_size=case.batch)
    packs = []
    for begin in range(0, count, size):
        models, x, y = build(case, min(size, count - begin))
        engine = packing.engine(models, CPU, settings)
        batch = Batch(x, y) if len(models) > 1 else Batch(x[0], y[0])
        packs.append((engine, batch, list(range(len(models)))))

    def train(steps: int) -> None:
        for engine, batch, seeds in packs:
            for _ in range(steps):
                engine.seed(seeds)
                engine.step(batch, objectives.hard, 1e-3)

    return train


def peak(case: Case, count: int) -> Train:
    """A large matrix product, 2 * 2048^3 operations."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def multiply(times: int) -> None:
        for _ in range(times):
            a @ b

    return multiply


class Workers:
    """Processes that each hold one way and take steps of it when asked, all at once."""

    def __init__(self, way: Callable[..., Train], case: Case, shares: Sequence[int], threads: int, *more: int):
        self.pipes: list[Connection] = []
        self.processes = []
        for share in shares:
            mine, theirs = FRESH.Pipe()
            process = FRESH.Process(target=_serve, args=(theirs, threads, way, case, share, *more), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self, steps: int) -> None:
        for pipe in self.pipes:
            pipe.send(steps)
        for pipe in self.pipes:
            pipe.recv()

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(0)
            process.join()


def halves(count: int) -> list[int]:
    return [math.ceil(count / CORES), count // CORES]


def _serve(pipe: Connection, threads: int, way: Callable[..., Train], case: Case, share: int, *more: int) -> None:
    torch.set_num_threads(threads)
    train = way(case, share, *more)
    train(3)
    pipe.send(None)
    while steps := pipe.recv():
        train(steps)
        pipe.send(None)

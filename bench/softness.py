"""What soft targets cost: loss, forward and backward, beside cross-entropy with hard labels in eager PyTorch.

Processor time of one thread, all ways in turn, in memory that the process keeps: else a way's time depends on whether the allocator
has just given back what the way before it needed, and its 250 page faults a tensor count more than the arithmetic. Memory in a process of its own for each way: the peak of the resident set during
one forward and backward pass less what was resident before it, where everything large is mapped and returned at once.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from figures import Figure, Options, ratio, table
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.training import objectives

BATCH, K, T, HARD_WEIGHT = 256, 32, 4.0, 0.1
SIZES = (1000, 15_000, 50_000)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
Loss = Callable[[Tensor], Tensor]


def losses(classes: int) -> dict[str, Loss]:
    """Each way's loss of (BATCH, classes) logits."""
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(BATCH, classes, generator=random) * 2
    y = torch.randint(classes, (BATCH,), generator=random)
    head, ids = (teacher / T).softmax(1).topk(K, 1)
    target = {"ids": ids[:, None], "p": head[:, None], "tail": (1 - head.sum(1))[:, None]}
    dense = {"p": (teacher / T).softmax(1)}
    batch, wide = Batch(y, y, target), Batch(y, y, dense)
    both = objectives.distillation(T, HARD_WEIGHT)

    def common(z: Tensor) -> Tensor:
        return F.kl_div((z / T).log_softmax(1), (teacher / T).softmax(1), reduction="batchmean") * T**2

    def gathered(z: Tensor) -> Tensor:
        log_q = (z / T).log_softmax(1).gather(1, ids)
        rest = (1 - log_q.exp().sum(1)).clamp_min(1e-7)
        tail = target["tail"][:, 0]
        return (torch.xlogy(head, head) - head * log_q).sum(1).add(
            torch.xlogy(tail, tail) - tail * rest.log()
        ).mean() * T**2

    return {
        HARD: lambda z: F.cross_entropy(z, y),
        SOFT: lambda z: objectives.soft(z, target, T),
        "top-32 and labels, ours": lambda z: both(z, batch)["loss"],
        "dense and labels, ours": lambda z: both(z, wide)["loss"],
        "top-32 through autograd": gathered,
        COMMON: common,
        f"{COMMON}, and labels": lambda z: common(z) + HARD_WEIGHT * F.cross_entropy(z, y),
    }


HARD, SOFT, COMMON = "hard labels, F.cross_entropy", "top-32, ours", "softmax, log_softmax, kl_div"


def soft_targets(options: Options) -> list[Figure]:
    """Time and memory of each way at 1,000, 15,000 and 50,000 classes."""
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    for classes in SIZES:
        ways = losses(classes)
        z = torch.randn(BATCH, classes, generator=torch.Generator().manual_seed(1)).requires_grad_()
        rounds = (150 if classes == 1000 else 15) // (5 if options.quick else 1)
        times = _in_turn([partial(_step, way, z) for way in ways.values()], rounds)
        hard = times[0]
        rows = []
        for name, column in zip(ways, times, strict=True):
            relative = ratio(column, hard)
            memory = None if options.quick and name not in (HARD, SOFT) else _memory(name, classes)
            told = "" if memory is None else f"{memory:.2f}"
            rows.append([name, f"{1e3 * statistics.median(column):.2f}", f"{relative:.2f}", told])
            if name != HARD:
                bound = "<= 0.8" if name == SOFT else None
                found.append(Figure(f"{name}: time over hard labels', C={classes}", relative, "ratio", bound))
            if memory is None:
                continue
            bound = "<= 2.0" if name == SOFT else None
            found.append(Figure(f"{name}: peak extra memory, C={classes}", memory, "logits", bound))
        print(f"\nbatch {BATCH}, {classes:,} classes, T = {T:g}, 1 thread")
        print(table(["way", "ms", "of hard labels", "memory, in logits"], rows), flush=True)
    torch.set_num_threads(threads)
    libc.mallopt(M_MMAP_MAX, 65536)
    libc.mallopt(M_TRIM_THRESHOLD, 128 << 10)
    return found


def _in_turn(ways: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Processor seconds of each way in each round, the system's included: other work on the machine does not count.

    Each goes twice and the second time counts, as in training, where a step finds the memory as a step like it left it.
    """
    times: list[list[float]] = []
    for _ in range(rounds + 1):
        times.append([])
        for way in ways:
            way()
            start = time.thread_time()
            way()
            times[-1].append(time.thread_time() - start)
    return [list(column) for column in zip(*times[1:], strict=True)]


def _step(way: Loss, z: Tensor) -> None:
    z.grad = None
    torch.autograd.backward(way(z))


def _memory(name: str, classes: int) -> float:
    """Peak extra memory of a way, in tensors of the logits' size, measured in a process of its own."""
    mapped = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), name, str(classes)]
    done = subprocess.run(command, env={**os.environ, **mapped}, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _measure(name: str, classes: int) -> float:
    torch.set_num_threads(1)
    way = losses(classes)[name]
    z = torch.randn(BATCH, classes).requires_grad_()
    _step(way, z)
    z.grad = None
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    _step(way, z)
    return (_resident("VmHWM") - before) / (BATCH * classes * 4)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))

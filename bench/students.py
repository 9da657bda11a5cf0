"""Small networks for the frontier: teachers on labels, students on whatever a codec leaves of the teachers.

A student's weights at the start and its batches depend on its seed alone, so students of different codecs can be
compared pair by pair. Every network is trained on one thread in a process of its own kind, two at a time.
"""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from triples import CLASSES

from kdscale.seeds import derive
from kdscale.training.metrics import measure
from kdscale.training.objectives import soft_divergence, sparse_divergence

WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """How one kind of network is trained: Adam, its rate rising to a peak and falling to nothing."""

    hidden: tuple[int, ...]
    steps: int
    batch: int
    rate: float
    dropout: float = 0.0


@dataclass(frozen=True)
class Score:
    """A student on the test triples."""

    accuracy: float
    ece: float
    nll: float


def in_workers(work: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The results of all jobs, in their order."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [running.result() for running in [pool.submit(work, *job) for job in jobs]]


def train_teacher(folder: Path, plan: Plan, seed: int) -> None:
    """A teacher's logits of all training and test triples, in a file of the folder."""
    data = load_file(folder / "data.safetensors")

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(logits, data["y"][rows])

    model = _fit(data["x"], loss, plan, derive(seed, "teacher"))
    logits = {"train": _logits(model, data["x"]), "test": _logits(model, data["x_test"])}
    save_file(logits, folder / f"teacher-{seed}.safetensors")


def train_student(folder: Path, target: str, temperature: float, plan: Plan, seed: int) -> Score:
    """A student of the targets in TARGET.safetensors, scored on the test triples."""
    data, targets = load_file(folder / "data.safetensors"), load_file(folder / f"{target}.safetensors")

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        batch = {name: column[rows] for name, column in targets.items()}
        if "fill" in batch:
            return soft_divergence(logits, filled_in(batch), temperature)
        if "ids" in batch:
            return sparse_divergence(logits, batch, temperature)
        return soft_divergence(logits, batch["p"], temperature)

    model = _fit(data["x"], loss, plan, derive(seed, "student"))
    p = _logits(model, data["x_test"]).double().softmax(1).numpy()
    y = data["y_test"].numpy()
    found = measure(p, y, y, bins=15)
    return Score(found["accuracy"], found["ece"], found["nll"])


def filled_in(batch: dict[str, Tensor]) -> Tensor:
    """(B, C) distributions of targets that name K classes and give every other one the same."""
    fill = batch["fill"][:, None]
    p = fill.repeat(1, CLASSES)
    return p.scatter_add(1, batch["ids"], batch["p"] - fill)


def _fit(x: Tensor, loss: Callable[[Tensor, Tensor], Tensor], plan: Plan, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    layers: list[nn.Module] = []
    for before, width in pairwise((x.shape[1], *plan.hidden)):
        layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(plan.dropout)]
    model = nn.Sequential(*layers, nn.Linear(plan.hidden[-1], CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, plan.steps)
    batches = np.random.default_rng(seed)
    for _ in range(plan.steps):
        rows = torch.from_numpy(batches.integers(0, len(x), plan.batch))
        optimizer.zero_grad()
        torch.autograd.backward(loss(model(x[rows]), rows))
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(x[start : start + 2000]) for start in range(0, len(x), 2000)])

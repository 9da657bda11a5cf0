"""What every rank of a group does to train one model: a student, a control, or a member too big for one device.

They differ in their settings, their seeds and what they learn from; checkpoints, commit and status are the same.
"""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdscale.cluster import whereabouts
from kdscale.data.batches import Batch, Batches, Join, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.data.subset import select
from kdscale.files import locked, remove_temporaries
from kdscale.models import zoo
from kdscale.pipeline import workers
from kdscale.pipeline.run import Run
from kdscale.recipe import Student, Teachers
from kdscale.seeds import derive
from kdscale.tracking.job import tracker
from kdscale.tracking.status import Status, stop_file
from kdscale.training.best import Best
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.deepspeed_engine import DeepSpeedEngine
from kdscale.training.done import finished
from kdscale.training.engine import use_device
from kdscale.training.finished import commit_weights
from kdscale.training.fit import Job, Plan, fit
from kdscale.training.objectives import Objective
from kdscale.training.signals import asked_to_stop


@dataclass(frozen=True)
class Assignment:
    """One model that a group of ranks is to train."""

    stage: str
    folder: Path
    fingerprint: str
    seed: int
    purpose: tuple[str, ...] = ()
    """Keeps what is drawn from the seed apart from what a member of the same seed draws."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further marks of the finished weights and of the record."""
    kept: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights
    """What is committed of the trained weights."""

    def draws(self, what: str) -> int:
        return derive(self.seed, *self.purpose, what)


Stream = Callable[[int], Batch]
"""A rank's batch of each step."""


@dataclass(frozen=True)
class Lessons:
    """What the model learns from."""

    objective: Objective
    pixels: Pixels
    view: Callable[[int], int]
    """The view that an epoch shows."""
    join: Join | None = None
    changed: Callable[[Stream], Stream] = lambda batches: batches
    """What is done to the batches before they are learnt from."""


Learn = Callable[[Dataset, torch.device, int, int], Lessons]
"""(dataset, device, rank, steps of the whole training)"""


def train_on_ranks(
    run: Run, settings: Teachers | Student, gpus: float, task: Assignment, checkpoints: Checkpoints, learn: Learn
) -> str:
    """On every rank of a group: train a model from its last checkpoint; the sha256 of its weights, on rank 0."""
    recipe, folder = run.recipe, task.folder
    rank, world = dist.get_rank(), dist.get_world_size()
    with locked(folder / ".lock") if rank == 0 else contextlib.nullcontext():
        dist.barrier()
        if (done := finished(folder, task.fingerprint)) is not None:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return done
        if rank == 0:
            remove_temporaries(folder)
        device = use_device(settings.cpus, gpus)
        dataset = workers.dataset(run, "train")
        shape = run.manifest.sample.shape
        drawn_by = recipe.seed if isinstance(settings, Student) else task.seed
        part = select(dataset, settings.share, settings.classes, drawn_by)
        sizes = part.sizes if part else dataset.sizes
        order = Order(sizes, task.draws("order"), settings.batch_size, recipe.data.lanes, recipe.data.window)
        own = order.lanes // world
        plan = Plan(order.steps(settings.epochs), order.samples / order.batch_size, settings)
        engine = DeepSpeedEngine(
            zoo.build(settings.model, shape, dataset.classes, task.draws("weights")), settings, device, plan.steps
        )
        lessons = learn(dataset, device, rank, plan.steps)
        lanes = range(rank * own, (rank + 1) * own)
        batches = lessons.changed(Batches(dataset, order, lessons.pixels, lessons.view, lanes, lessons.join, part))
        report = Status(
            folder, active=rank == 0, stage=task.stage, job=folder.name, seed=task.seed, ranks=world, **whereabouts()
        )
        report.update(state="running", steps=plan.steps)

        facts = {"seed": task.seed, "ranks": world, **task.facts}
        record = tracker(run.folder, recipe, folder, task.stage, folder.name, task.fingerprint, facts)
        job = Job(task.draws("steps"), checkpoints, record, report)
        best: Best | None = None
        if isinstance(settings, Student) and settings.keep == "best":
            aside = checkpoints.folder.with_name(f"{checkpoints.folder.name}-best")
            validation = workers.dataset(run, "validation")
            best = Best(aside, validation, lessons.pixels, plan.steps_per_epoch, plan.steps)
            dist.barrier()  # all have read it
        with asked_to_stop() as asked:  # what is trained is committed, also where the signal comes only then
            stop = stop_file(run.folder)
            fit(engine, batches, lessons.objective, plan, [job], lambda: asked() or stop.exists(), best)
            weights = engine.weights() if best is None else {}
            checksum = ""
            if rank == 0:
                facts = {**task.facts, "seed": task.seed}
                if best is not None:
                    weights, facts["best"] = best.weights()
                checksum = commit_weights(folder, task.kept(weights), task.fingerprint, **facts)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                report.update(state="done", step=plan.steps)
            dist.barrier()
            return checksum

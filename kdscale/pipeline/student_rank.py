"""One rank of stage 4: what every process of a group does to train a student or a control."""

import contextlib
import shutil
from pathlib import Path

import torch.distributed as dist

from kdscale.data.batches import Batches
from kdscale.data.order import Order
from kdscale.ensemble.targets import fused
from kdscale.files import locked, remove_temporaries
from kdscale.logits.reader import Targets
from kdscale.logits.store import Store
from kdscale.models import zoo
from kdscale.pipeline import logits, workers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.seeds import derive
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status, stop_file
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.deepspeed_engine import DeepSpeedEngine
from kdscale.training.done import finished
from kdscale.training.engine import use_device
from kdscale.training.finished import commit_weights
from kdscale.training.fit import Plan, fit


def train_student(
    folder: Path,
    recipe: Recipe,
    job: tuple[str, int],
    job_folder: Path,
    fingerprint: str,
    members: dict[str, str],
    gpus: float,
) -> str:
    """On every rank of a group: train one student or control; the sha256 of its weights.

    Args:
        job: ("student" or "control", seed).
        members: checkpoint hash by member of the store.
    """
    kind, seed = job
    run, settings = Run(folder, recipe), recipe.student
    rank, world = dist.get_rank(), dist.get_world_size()
    with locked(job_folder / ".lock") if rank == 0 else contextlib.nullcontext():
        dist.barrier()
        if (done := finished(job_folder, fingerprint)) is not None:
            shutil.rmtree(job_folder / "checkpoints", ignore_errors=True)
            return done
        if rank == 0:
            remove_temporaries(job_folder)
        device = use_device(settings.cpus, gpus)
        dataset = workers.dataset(run, logits.SPLIT)
        manifest = run.manifest
        model = zoo.build(settings.model, manifest.sample.shape, dataset.classes, derive(seed, "student", "weights"))
        engine = DeepSpeedEngine(model, settings, device)
        order = Order(
            dataset.sizes, derive(seed, "student", "order"), settings.batch_size, recipe.data.lanes, recipe.data.window
        )
        own = order.lanes // world
        join: Targets | None = None
        objective: objectives.Objective = objectives.hard
        if kind == "student":
            temperature = settings.temperature
            store = Store.open(folder / logits.NAME, manifest.fingerprint, logits.SPLIT)
            join = Targets(store, dataset, members, temperature, lambda rows: fused(rows, recipe.fusion, temperature))
            objective = objectives.distillation(temperature, settings.hard_weight)
        batches = Batches(
            dataset,
            order,
            workers.shared_pixels(run, device),
            lambda epoch: epoch % recipe.logits.views,
            range(rank * own, (rank + 1) * own),
            join,
        )
        plan = Plan(
            order.steps(settings.epochs), order.samples / order.batch_size, settings, derive(seed, "student", "steps")
        )
        checkpoints = Checkpoints(job_folder / "checkpoints" / f"{fingerprint[:12]}-world-{world}")
        report = Status(job_folder, active=rank == 0, stage="student", job=job_folder.name, seed=seed)
        report.update(state="running", steps=plan.steps)

        def tracker(step: int) -> JobTracker:
            return JobTracker(
                job_folder,
                "student",
                job_folder.name,
                step,
                wandb=recipe.tracking.wandb,
                group=recipe.name,
                group_id=fingerprint,
                config={"kind": kind, "seed": seed, **recipe.model_dump(mode="json")},
            )

        fit(engine, batches, objective, plan, checkpoints, tracker, report, stop_file(folder).exists)
        weights = engine.weights()
        checksum = ""
        if rank == 0:
            checksum = commit_weights(job_folder, weights, fingerprint, kind=kind, seed=seed)
            shutil.rmtree(job_folder / "checkpoints", ignore_errors=True)
            report.update(state="done", step=plan.steps)
        dist.barrier()
        return checksum

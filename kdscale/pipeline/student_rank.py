"""One rank of stage 4: what every process of a group does to train a student or a control."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from kdscale.data.batches import Batch, Batches, Join
from kdscale.data.columns import Columns
from kdscale.data.order import Order
from kdscale.data.shards import Decoded
from kdscale.ensemble import covers
from kdscale.ensemble.covers import Part
from kdscale.ensemble.live import Live
from kdscale.ensemble.targets import Targets
from kdscale.files import locked, read_json, remove_temporaries, write_json
from kdscale.logits.commits import Listing
from kdscale.models import zoo
from kdscale.pipeline import logits, teachers, workers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe, Student
from kdscale.seeds import derive
from kdscale.tracking import status
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status, stop_file
from kdscale.training import objectives, schedules
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.deepspeed_engine import DeepSpeedEngine
from kdscale.training.done import finished
from kdscale.training.engine import use_device
from kdscale.training.finished import commit_weights
from kdscale.training.fit import Job, Plan, fit
from kdscale.training.objectives.mixup import mixing


def train_student(
    folder: Path,
    recipe: Recipe,
    job: tuple[str, int],
    job_folder: Path,
    fingerprint: str,
    gpus: float,
) -> str:
    """On every rank of a group: train one student or control; the sha256 of its weights.

    Args:
        job: ("student" or "control", seed).
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
        join: Join | None = None
        plan = Plan(order.steps(settings.epochs), order.samples / order.batch_size, settings)
        objective: objectives.Objective = objectives.hard
        if settings.label_smoothing or settings.mixup:
            objective = objectives.labelled(settings.label_smoothing)
        if kind == "student":
            targets = soft_targets(run, job_folder, rank)

            def join(number: int, decoded: Decoded, view: int, epoch: int) -> Columns:
                return targets.shard(dataset.shards[number].name, decoded.keys, view, epoch)

            objective = soft_objective(settings, plan.steps)
        batches: Callable[[int], Batch] = Batches(
            dataset,
            order,
            workers.shared_pixels(run, device),
            lambda epoch: epoch % recipe.logits.views,
            range(rank * own, (rank + 1) * own),
            join,
        )
        if settings.mixup:
            batches = mixing(batches, settings.mixup, derive(seed, "student", "mixup"), rank)
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

        job_of_rank = Job(derive(seed, "student", "steps"), checkpoints, tracker, report)
        fit(engine, batches, objective, plan, [job_of_rank], stop_file(folder).exists)
        weights = engine.weights()
        checksum = ""
        if rank == 0:
            checksum = commit_weights(job_folder, weights, fingerprint, kind=kind, seed=seed)
            shutil.rmtree(job_folder / "checkpoints", ignore_errors=True)
            report.update(state="done", step=plan.steps)
        dist.barrier()
        return checksum


def soft_objective(settings: Student, steps: int) -> objectives.Objective:
    """What a student minimises, as its recipe says."""
    first, last, course = settings.temperature, settings.temperature_end, settings.temperature_schedule

    def of_step(step: int) -> float:
        return schedules.temperature(step, steps, first, first if last is None else last, course)

    soft_weight, hard_weight = settings.weights
    return objectives.distillation(
        first if course == "constant" else of_step,
        hard_weight,
        soft_weight,
        settings.divergence,
        settings.label_smoothing,
    )


def soft_targets(run: Run, job_folder: Path, rank: int) -> Targets:
    """What a student learns from: the cheapest cover of the ensemble, or members as they come in.

    Which of the two, and which cover, is decided when the job begins, and kept for its restarts: a cover's targets
    differ from the members' by the codec's rounding.
    """
    recipe, settings = run.recipe, run.recipe.student
    store = logits.open_store(run)
    path = job_folder / "reads.json"
    if rank == 0:
        if read_json(path) is not None and not _still_holds(run, job_folder, store.name):
            for folder in ("members", "checkpoints"):  # of members that were trained anew since, or another store
                shutil.rmtree(job_folder / folder, ignore_errors=True)
            path.unlink()
        if read_json(path) is None:
            there = store.listing()
            whole = _is_whole(run, there)
            parts = [dataclasses.asdict(part) for part in _cover(run, there)] if whole else []
            made = {"store": store.name, "live": not whole, "members": logits.ensemble(run), "parts": parts}
            write_json(path, made)
    dist.barrier()
    reads: dict[str, Any] = read_json(path) or {}
    weights = logits.weights(recipe)
    if not reads["live"]:
        cover = [Part(**part) for part in reads["parts"]]
        return Targets(store, _temperature(recipe), weights=weights, rule=recipe.fusion.rule, parts=cover)
    assert settings.quorum is not None, "the stage begins without all members only where the recipe says so"
    live = Live(
        store,
        [logits.member_name(seed) for seed in recipe.fused_seeds],
        lambda: logits.ensemble(run),
        job_folder / "members",
        settings.quorum,
        settings.epochs,
        settings.deadline,
        lambda: [status.read(teachers.member_folder(run, seed)).get("step") for seed in recipe.fused_seeds],
        stop_file(run.folder).exists,
    )
    return Targets(store, _temperature(recipe), weights=weights, rule=recipe.fusion.rule, live=live)


def _temperature(recipe: Recipe) -> float | None:
    """T of the targets; None where it changes from step to step."""
    return recipe.student.temperature if recipe.student.temperature_schedule == "constant" else None


def _still_holds(run: Run, job_folder: Path, store: str) -> bool:
    """Whether what a job reads is what it has read so far: the store, and the weights of every member."""
    reads: dict[str, Any] = read_json(job_folder / "reads.json") or {}
    read_so_far = [
        reads.get("members", {}),
        *(read_json(path) or {} for path in (job_folder / "members").rglob("*.json")),
    ]
    ensemble = logits.ensemble(run)
    return reads.get("store") == store and all(
        ensemble.get(name, checksum) == checksum for members in read_so_far for name, checksum in members.items()
    )


def _is_whole(run: Run, there: Listing) -> bool:
    """Whether every member has labelled every shard."""
    seeds = run.recipe.fused_seeds
    return not any(len(numbers) for seed, _, numbers in logits.left(run, there) if seed in seeds)


def _cover(run: Run, there: Listing) -> list[Part]:
    shards = [shard.name for shard in run.manifest.splits[logits.SPLIT]]
    views = range(run.recipe.logits.views)
    makers = there.members
    whole = [
        maker
        for name, maker in makers.items()
        if maker.fused and all(there.holds(shards, view, name, maker.checkpoint).all() for view in views)
    ]
    sizes = {name: there.totals(name)[2] / max(1, there.totals(name)[1]) for name in makers}
    return covers.cheapest(
        logits.ensemble(run),
        logits.weights(run.recipe),
        run.recipe.fusion.rule,
        _temperature(run.recipe),
        whole,
        sizes,
    )

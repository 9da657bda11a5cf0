"""Stage 4, student: DeepSpeed ranks train the student from the store, and its control from the labels alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdscale.files import digest
from kdscale.pipeline import logits, teachers
from kdscale.pipeline.run import HOW_ONLY, Run
from kdscale.recipe import Recipe
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file
from kdscale.training.done import finished

SOFT_ONLY = {"temperature", "hard_weight"}
"""Fields that a control does not depend on."""

Job = tuple[str, int]
"""("student" or "control", seed)"""


def jobs(run: Run) -> list[Job]:
    kinds = ["student", "control"] if run.recipe.student.control else ["student"]
    return [(kind, seed) for seed in run.recipe.student.seeds for kind in kinds]


def job_name(job: Job) -> str:
    return f"{job[0]}-seed-{job[1]}"


def job_folder(run: Run, job: Job) -> str:
    """The job's folder, relative to the run."""
    return f"students/{job_name(job)}"


def fingerprint(run: Run, job: Job) -> str:
    kind, seed = job
    recipe = run.recipe
    soft = kind == "student"
    ignored = {"seeds", "control", "workers", *HOW_ONLY, *(() if soft else SOFT_ONLY)}
    parts: dict[str, Any] = {
        "stage": "student",
        "kind": kind,
        "seed": seed,
        "dataset": run.manifest.fingerprint,
        "student": recipe.student.model_dump(mode="json", exclude=ignored),
        "data": recipe.data.model_dump(mode="json", include={"lanes", "window", "normalize"}),
        "views": [recipe.logits.views, recipe.data.views.model_dump(), recipe.seed] if recipe.logits.views > 1 else 1,
    }
    if soft:
        parts["fusion"] = recipe.fusion
        parts["logits"] = logits.fingerprint(run)
        parts["members"] = [teachers.fingerprint(run, member) for member in recipe.teachers.seeds]
    return digest(parts)


def finished_jobs(run: Run) -> dict[Job, str]:
    """The sha256 of the weights of each job that is finished."""
    found = {job: finished(run.folder / job_folder(run, job), fingerprint(run, job)) for job in jobs(run)}
    return {job: checksum for job, checksum in found.items() if checksum is not None}


def missing(run: Run) -> list[str]:
    done = finished_jobs(run)
    return [job_name(job) for job in jobs(run) if job not in done]


def work(run: Run, bars: Bars) -> None:
    from kdscale import cluster
    from kdscale.training.deepspeed_engine import merged_config

    recipe, student = run.recipe, run.recipe.student
    merged_config(student, "cuda" if cluster.needs(1, student.gpus).gpus else "cpu")
    done = finished_jobs(run)
    todo = [job for job in jobs(run) if job not in done]
    folders = {job: run.claim(job_folder(run, job), fingerprint(run, job)) for job in todo}
    members = {logits.member_name(seed): checksum for seed, checksum in teachers.members(run).items()}

    def tick() -> None:
        bars.show("students", len(done), len(jobs(run)))
        for job, folder in folders.items():
            teachers.show_job(bars, f"  {job_name(job)}", status.read(folder), job in done)

    def finish(job: Job) -> Callable[[str], None]:
        def finished_job(checksum: str) -> None:
            done[job] = checksum

        return finished_job

    groups = cluster.Groups(
        tick, stop_file(run.folder).exists, student.workers, cluster.needs(student.cpus, student.gpus)
    )
    for job in todo:
        groups.submit(
            job_name(job),
            train_student,
            run.folder,
            recipe,
            job,
            folders[job],
            fingerprint(run, job),
            members,
            needs=groups.needs,
            done=finish(job),
        )
    groups.run()
    tick()


def train_student(
    folder: Path, recipe: Recipe, job: Job, job_folder: Path, fingerprint: str, members: dict[str, str]
) -> str:
    """On every rank of a group: train one student or control; the sha256 of its weights.

    Args:
        members: checkpoint hash by member of the store.
    """
    import contextlib

    import torch.distributed as dist

    from kdscale.data.batches import Batches
    from kdscale.data.order import Order
    from kdscale.ensemble.fusion import RULES
    from kdscale.files import locked
    from kdscale.logits.reader import Targets
    from kdscale.logits.store import Store
    from kdscale.models import zoo
    from kdscale.pipeline import workers
    from kdscale.seeds import derive
    from kdscale.tracking.job import JobTracker
    from kdscale.training import objectives
    from kdscale.training.checkpoints import Checkpoints
    from kdscale.training.deepspeed_engine import DeepSpeedEngine
    from kdscale.training.finished import commit_weights
    from kdscale.training.fit import Plan, fit

    kind, seed = job
    run, student = Run(folder, recipe), recipe.student
    rank, world = dist.get_rank(), dist.get_world_size()
    with locked(job_folder / ".lock") if rank == 0 else contextlib.nullcontext():
        dist.barrier()
        device = workers.device(student.cpus)
        dataset = workers.dataset(run, logits.SPLIT)
        manifest = run.manifest
        model = zoo.build(student.model, manifest.sample.shape, dataset.classes, derive(seed, "student", "weights"))
        engine = DeepSpeedEngine(model, student, device)
        order = Order(
            dataset.sizes, derive(seed, "student", "order"), student.batch_size, recipe.data.lanes, recipe.data.window
        )
        own = order.lanes // world
        join: Targets | None = None
        objective: objectives.Objective = objectives.hard
        if kind == "student":
            temperature, rule = student.temperature, RULES[recipe.fusion]
            store = Store.open(folder / logits.NAME, manifest.fingerprint, logits.SPLIT)
            join = Targets(store, dataset, members, lambda z: rule(z, temperature))
            objective = objectives.distillation(temperature, student.hard_weight)
        batches = Batches(
            dataset,
            order,
            workers.shared_pixels(run, device),
            lambda epoch: epoch % recipe.logits.views,
            range(rank * own, (rank + 1) * own),
            join,
        )
        plan = Plan(
            order.steps(student.epochs), order.samples / order.batch_size, student, derive(seed, "student", "steps")
        )
        checkpoints = Checkpoints(job_folder / "checkpoints" / f"world-{world}")
        report = status.Status(job_folder, active=rank == 0, stage="student", job=job_name(job), seed=seed)
        report.update(state="running", steps=plan.steps)

        def tracker(step: int) -> JobTracker:
            return JobTracker(
                job_folder,
                "student",
                job_name(job),
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
            checkpoints.remove()
            report.update(state="done", step=plan.steps)
        dist.barrier()
        return checksum

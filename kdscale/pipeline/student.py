"""Stage 4, student: DeepSpeed ranks train the student from the store, and its control from the labels alone.

The ensemble's own control, its networks trained jointly, is trained here as well (`joint`).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kdscale.errors import UserError
from kdscale.files import digest
from kdscale.pipeline import joint, logits, teachers
from kdscale.pipeline.run import HOW_ONLY, Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.training.deepspeed_config import what_counts
from kdscale.training.done import finished

if TYPE_CHECKING:
    from kdscale.cluster import Groups, Needs, Owner

SOFT_ONLY = {
    "temperature",
    "temperature_schedule",
    "temperature_end",
    "divergence",
    "match",
    "fold",
    "hard_weight",
    "alpha",
    "quorum",
}
"""Fields that a control does not depend on."""
ADDED = (
    *("temperature_schedule", "temperature_end", "divergence", "alpha", "label_smoothing", "mixup", "match", "fold"),
    *("keep", "share", "classes"),
)
"""Fields that came later: at their defaults they leave a student's fingerprint what it was."""

Job = tuple[str, int]
"""("student", "control" or "joint", seed)"""


def jobs(run: Run) -> list[Job]:
    kinds = ["student", "control"] if run.recipe.student.control else ["student"]
    jointly = run.recipe.joint.seeds if run.recipe.joint.networks else []
    return [*((kind, seed) for seed in run.recipe.student.seeds for kind in kinds), *((joint.KIND, s) for s in jointly)]


def job_name(job: Job) -> str:
    return f"{job[0]}-seed-{job[1]}"


def job_folder(run: Run, job: Job) -> str:
    """The job's folder, relative to the run."""
    return f"students/{job_name(job)}"


def trained_model(recipe: Recipe, kind: str = "student") -> ModelSpec:
    """The network that is trained: where a student is to mimic all teachers, one with a head for each."""
    if kind == joint.KIND:
        return joint.model(recipe)
    if kind == "student" and recipe.student.match == "mimic_all":
        from kdscale.models import heads

        return heads.spec(recipe.student.model, head_weights(recipe))
    return recipe.student.model


def model(recipe: Recipe, kind: str = "student") -> ModelSpec:
    """The network whose weights are kept: that which is trained, or what it was folded into."""
    return recipe.student.model if kind == "student" and recipe.student.fold else trained_model(recipe, kind)


def head_weights(recipe: Recipe) -> list[float]:
    """Of each teacher's head, relative to the others'."""
    return [recipe.fusion.weights.get(seed, 1.0) for seed in recipe.fused_seeds]


def fingerprint(run: Run, job: Job) -> str:
    kind, seed = job
    if kind == joint.KIND:
        return joint.fingerprint(run, seed)
    recipe = run.recipe
    soft = kind == "student"
    ignored = {"seeds", "control", "workers", "deadline", *HOW_ONLY, *(() if soft else SOFT_ONLY)}
    parts: dict[str, Any] = {
        "stage": "student",
        "kind": kind,
        "seed": seed,
        "dataset": run.manifest.fingerprint,
        "student": {
            **recipe.student.model_dump(mode="json", exclude=ignored | _at_default(recipe)),
            "deepspeed": what_counts(recipe.student.deepspeed),
        },
        "data": recipe.data.model_dump(mode="json", include={"lanes", "window", "normalize"}),
        "views": [recipe.logits.views, recipe.data.views.model_dump(), recipe.seed] if recipe.logits.views > 1 else 1,
    }
    if soft:
        parts["fusion"] = [recipe.fusion.rule, logits.weights(recipe)]
        parts["logits"] = logits.fingerprint(run)
        parts["members"] = [teachers.fingerprint(run, member) for member in recipe.fused_seeds]
    return digest(parts)


def _at_default(recipe: Recipe) -> set[str]:
    fields = type(recipe.student).model_fields
    return {name for name in ADDED if getattr(recipe.student, name) == fields[name].default}


def finished_jobs(run: Run) -> dict[Job, str]:
    """The sha256 of the weights of each job that is finished."""
    found: dict[Job, str] = {}
    for job in jobs(run):
        folder = run.locate(job_folder(run, job), fingerprint(run, job))
        checksum = folder and finished(folder, fingerprint(run, job))
        if checksum:
            found[job] = checksum
    return found


def missing(run: Run) -> list[str]:
    done = finished_jobs(run)
    return [job_name(job) for job in jobs(run) if job not in done]


def placed(recipe: Recipe) -> tuple[Recipe, "Needs"]:
    """The recipe with as many ranks as the cluster has places for, and what each needs.

    With "auto" each rank takes a GPU; where there are fewer GPUs than ranks, as many ranks as GPUs share the lanes,
    which changes nothing in the batches.
    """
    from kdscale import cluster

    student = recipe.student
    needs = cluster.needs(student.cpus, student.gpus)
    ranks = cluster.ranks(student.workers, student.gpus, needs)
    return recipe.model_copy(update={"student": student.model_copy(update={"workers": ranks})}), needs


def no_room_beside(there: str) -> UserError:
    """What to say where a student is to follow the members (`student.quorum`) and the cluster has no room for both.

    Args:
        there: what the cluster has.
    """
    return UserError(
        "student.quorum: a student that follows the members as they come needs room beside one of them, and the "
        f"cluster has {there}; lower student.workers, or leave student.quorum out"
    )


def work(run: Run, bars: Bars) -> None:
    """Train what is missing."""
    groups, todo = queue(run, bars)
    for submit in todo.values():
        submit()
    groups.run()
    groups.tick()
    work_jointly(run, bars)


def work_jointly(run: Run, bars: Bars) -> None:
    """Train the joint controls that are missing."""
    done = finished_jobs(run)
    todo = {seed: (kind, seed) for kind, seed in jobs(run) if kind == joint.KIND and (kind, seed) not in done}
    if not todo:
        return
    folders = {seed: run.claim(job_folder(run, job), fingerprint(run, job)) for seed, job in todo.items()}

    def tick() -> None:
        bars.show("students", len(done), len(jobs(run)))
        for seed, folder in folders.items():
            teachers.show_job(bars, f"  {job_name(todo[seed])}", status.read(folder), todo[seed] in done)

    def finish(seed: int, checksum: str) -> None:
        done[todo[seed]] = checksum

    joint.queue(run, folders, tick, finish).run()
    tick()


def queue(
    run: Run, bars: Bars, asked: dict[Job, str] | None = None, owner: "Owner | None" = None
) -> tuple["Groups", dict[Job, Callable[[], None]]]:
    """A queue for the students and controls that are missing, and for each what submits it.

    Args:
        asked: other jobs instead, and their fingerprints.
        owner: of those.
    """
    from kdscale import cluster
    from kdscale.pipeline.student_rank import train_student

    recipe, needs = placed(run.recipe)
    student = recipe.student
    done = finished_jobs(run) if asked is None else {}
    marks = {job: fingerprint(run, job) for job in jobs(run) if job not in done and job[0] != joint.KIND}
    marks = marks if asked is None else asked
    folders = {job: run.claim(job_folder(run, job), mark) for job, mark in marks.items()}
    total = len(jobs(run)) if asked is None else len(asked)

    def tick() -> None:
        bars.show("students", len(done), total)
        for job, folder in folders.items():
            teachers.show_job(bars, f"  {job_name(job)}", status.read(folder), job in done)

    def finish(job: Job) -> Callable[[str], None]:
        def finished_job(checksum: str) -> None:
            done[job] = checksum

        return finished_job

    patience = 0.0 if student.quorum is None else student.deadline
    groups = cluster.Groups(tick, owner or run.owner("student"), student.workers, needs, patience)

    def submit(job: Job) -> None:
        groups.submit(
            job_name(job),
            train_student,
            run.folder,
            recipe,
            job,
            folders[job],
            marks[job],
            needs.gpus,
            needs=needs,
            done=finish(job),
        )

    return groups, {job: partial(submit, job) for job in marks}

"""Stage 4, student: DeepSpeed ranks train the student from the store, and its control from the labels alone."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kdscale.files import digest
from kdscale.pipeline import logits, teachers
from kdscale.pipeline.run import HOW_ONLY, Run
from kdscale.recipe import Recipe
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file
from kdscale.training.done import finished

if TYPE_CHECKING:
    from kdscale.cluster import Groups, Needs

SOFT_ONLY = {
    "temperature",
    "temperature_schedule",
    "temperature_end",
    "divergence",
    "hard_weight",
    "alpha",
    "quorum",
}
"""Fields that a control does not depend on."""
ADDED = ("temperature_schedule", "temperature_end", "divergence", "alpha", "label_smoothing", "mixup")
"""Fields that came later: at their defaults they leave a student's fingerprint what it was."""

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
    ignored = {"seeds", "control", "workers", "deadline", *HOW_ONLY, *(() if soft else SOFT_ONLY)}
    parts: dict[str, Any] = {
        "stage": "student",
        "kind": kind,
        "seed": seed,
        "dataset": run.manifest.fingerprint,
        "student": recipe.student.model_dump(mode="json", exclude=ignored | _at_default(recipe)),
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
    ranks = student.workers
    if student.gpus == "auto" and needs.gpus:
        most = min(ranks, int(cluster.capacity().gpus))
        ranks = max(r for r in range(1, most + 1) if student.workers % r == 0)
    return recipe.model_copy(update={"student": student.model_copy(update={"workers": ranks})}), needs


def work(run: Run, bars: Bars) -> None:
    """Train what is missing."""
    groups, todo = queue(run, bars)
    for submit in todo.values():
        submit()
    groups.run()
    groups.tick()


def queue(run: Run, bars: Bars) -> tuple["Groups", dict[Job, Callable[[], None]]]:
    """A queue for the students and controls that are missing, and for each what submits it."""
    from kdscale import cluster
    from kdscale.pipeline.student_rank import train_student

    recipe, needs = placed(run.recipe)
    student = recipe.student
    done = finished_jobs(run)
    todo = [job for job in jobs(run) if job not in done]
    folders = {job: run.claim(job_folder(run, job), fingerprint(run, job)) for job in todo}

    def tick() -> None:
        bars.show("students", len(done), len(jobs(run)))
        for job, folder in folders.items():
            teachers.show_job(bars, f"  {job_name(job)}", status.read(folder), job in done)

    def finish(job: Job) -> Callable[[str], None]:
        def finished_job(checksum: str) -> None:
            done[job] = checksum

        return finished_job

    patience = 0.0 if student.quorum is None else student.deadline
    groups = cluster.Groups(tick, stop_file(run.folder).exists, student.workers, needs, patience)

    def submit(job: Job) -> None:
        groups.submit(
            job_name(job),
            train_student,
            run.folder,
            recipe,
            job,
            folders[job],
            fingerprint(run, job),
            needs.gpus,
            needs=needs,
            done=finish(job),
        )

    return groups, {job: partial(submit, job) for job in todo}

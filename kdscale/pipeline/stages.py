"""All stages in order: each is skipped if its artefact is there with the same fingerprint."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from kdscale.errors import UserError
from kdscale.files import digest
from kdscale.pipeline import (
    adopted,
    data,
    evaluate,
    joint,
    lineage,
    logits,
    packs,
    report,
    specialists,
    student,
    teachers,
)
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file

if TYPE_CHECKING:
    from kdscale import cluster

STAGES = ("data", "teachers", "logits", "student", "specialists", "evaluate", "report")
MODULES = {
    "data": data,
    "teachers": teachers,
    "logits": logits,
    "student": student,
    "specialists": specialists,
    "evaluate": evaluate,
    "report": report,
}
LOCAL = {"data", "report"}
"""Stages that need no Ray."""


def advance(run: Run, last: str, connect: Callable[[], AbstractContextManager[None]], bars: Bars) -> None:
    """Do what is missing, up to and with the stage `last`.

    Args:
        connect: gives a connection to Ray, made only when a stage has work for it.

    Raises:
        UserError, RunFailure, Stopped: what is finished by then is kept.
    """
    stop_file(run.folder).unlink(missing_ok=True)
    lineage.begin(run)
    with ExitStack() as stack:
        connected = False
        for stage in STAGES[: STAGES.index(last) + 1]:
            if stage in ("teachers", "logits"):
                run.take_back(logits.NAME, logits.fingerprint(run))
            if stage == "teachers" and run.recipe.teachers.weights:
                adopted.work(run)
            if stage == "student":
                for job in student.jobs(run):
                    run.take_back(student.job_folder(run, job), student.fingerprint(run, job))
            if stage == "specialists":
                if not run.recipe.specialists.count:
                    continue
                specialists.take_back(run)
            todo = MODULES[stage].missing(run)
            if not todo:
                bars.say(f"{stage}: done before")
                continue
            if stage not in LOCAL and not connected:
                with run.accounts.timed("ray"):
                    stack.enter_context(connect())
                preflight(run)
                connected = True
            run.keep_recipe()
            start = time.monotonic()
            with booked(run), run.accounts.timed(stage, identity(run, stage)) as stretch:
                if stage == "teachers" and last != "teachers":
                    stretch.other = teach(run, bars, students="student" in STAGES[: STAGES.index(last) + 1])
                else:
                    MODULES[stage].work(run, bars)
            if stretch.other:
                run.accounts.spend("logits", identity(run, "logits"), stretch.other)
            bars.say(f"{stage}: done in {time.monotonic() - start:.1f} s")
    run.keep_recipe()
    lineage.publish(run)


@contextmanager
def booked(run: Run) -> Iterator[None]:
    """Afterwards write what jobs of other stages held meanwhile."""
    try:
        yield
    finally:
        for stage in run.accounts.booked:
            run.accounts.spend(stage, identity(run, stage))


def teach(run: Run, bars: Bars, students: bool) -> float:
    """Train members and let each label as soon as it is finished; students that follow along begin at their quorum.

    Returns:
        The seconds at the end that were labelling alone.
    """
    with logits.Labelling(run, bars) as labelling:
        return _teach(run, bars, students, labelling)


def _teach(run: Run, bars: Bars, students: bool, labelling: logits.Labelling) -> float:
    quorum = run.recipe.student.quorum
    if not students or quorum is None or not student.missing(run):
        return teachers.work(run, bars, then=labelling)
    groups, todo = student.queue(run, bars)
    waiting = [submit for (kind, _), submit in todo.items() if kind == "student"]

    def then(tasks: "cluster.Tasks", seed: int, checksum: str) -> None:
        labelling(tasks, seed, checksum)
        if len(logits.ensemble(run)) >= quorum:
            while waiting:
                waiting.pop(0)()

    teachers.work(run, bars, then, groups)
    return 0.0


def preflight(run: Run) -> None:
    """Find what would stop a later stage before an earlier one spends its time.

    Raises:
        UserError: a store of another dataset, too little room for it, classes that are not there, a model that cannot be built, called or packed,
            a DeepSpeed JSON that contradicts the recipe, too small a cluster.
    """
    from kdscale import cluster
    from kdscale.data import subset
    from kdscale.training.deepspeed_config import merged_config

    logits.check_room(run)
    for name, settings in (("teachers", run.recipe.teachers), ("student", run.recipe.student)):
        subset.check_classes(settings.classes or [], run.manifest.classes, f"{name}.classes")
    if run.recipe.student.keep == "best" and not run.manifest.splits.get("validation"):
        raise UserError(
            "student.keep: best is found on the validation split, and there is none; set data.validation above 0"
        )
    recipe, needs = student.placed(run.recipe)
    merged_config(recipe.student, "cuda" if needs.gpus else "cpu")
    placed, teacher = teachers.placed(recipe)
    ranks = placed.teachers.workers if placed.teachers.grouped else 1
    if placed.teachers.grouped:
        merged_config(placed.teachers, "cuda" if teacher.gpus else "cpu")
    _check_models(run, recipe, calls=not (needs.gpus or teacher.gpus))
    cluster.check_fits("a teacher", teacher, ranks)
    packs.check(run, teacher.gpus)
    cluster.check_fits("the student", needs, recipe.student.workers)
    together, whole = needs * recipe.student.workers + teacher * ranks, cluster.capacity()
    if recipe.student.quorum is not None and teachers.missing(run) and not together.fits(whole):
        raise student.no_room_beside(f"{whole.cpus} CPUs and {whole.gpus:g} GPUs")


def _check_models(run: Run, recipe: Recipe, calls: bool) -> None:
    """Build every network; `calls`: and ask it about a sample, unless it may need a GPU that the driver has not."""
    from kdscale.models import zoo

    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)
    jointly = [joint.model(recipe)] if recipe.joint.networks else []
    for spec in (student.trained_model(recipe), *jointly):
        zoo.build(spec, shape, classes, 0)
    for spec in (recipe.teachers.model, recipe.student.model):
        network = zoo.build(spec, shape, classes, 0)
        if calls:
            zoo.check(network, spec, shape, classes)


def identity(run: Run, stage: str) -> str:
    """Names what a stage is about to make, so that its time is not added to that of something else."""
    match stage:
        case "teachers":
            return digest([teachers.fingerprint(run, seed) for seed in run.recipe.teachers.seeds])
        case "student":
            return digest([student.fingerprint(run, job) for job in student.jobs(run)])
        case "specialists":
            return digest([specialists.fingerprint(run, seed, None) for seed in run.recipe.student.seeds])
        case "data":
            return data.fingerprint(run)
        case "logits":
            return logits.fingerprint(run)
        case _:
            return evaluate.fingerprint(run)

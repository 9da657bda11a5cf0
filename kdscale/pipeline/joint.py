"""The joint control of stage 4: (F1 + ... + FN) / N trained as one network, as a member of the ensemble is trained.

What an ensemble gains over it, and it over a single member, tells whether averaging or training one by one is what helps
(Allen-Zhu & Li 2023, section 1).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kdscale.errors import RunFailure
from kdscale.files import digest
from kdscale.pipeline import teachers
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.tracking.status import stop_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdscale.cluster import Tasks

KIND = "joint"


def model(recipe: Recipe) -> ModelSpec:
    """The average of as many of the teachers' networks as the recipe asks for."""
    return ModelSpec(name="average", model=recipe.teachers.model.model_dump(mode="json"), count=recipe.joint.networks)


def fingerprint(run: Run, seed: int) -> str:
    return digest({"stage": KIND, "networks": run.recipe.joint.networks, "member": teachers.fingerprint(run, seed)})


def queue(run: Run, todo: dict[int, Path], tick: "Callable[[], None]", done: "Callable[[int, str], None]") -> "Tasks":
    """A queue of the controls that are missing, by seed and folder; `done` gets the sha256 of each one's weights."""
    from kdscale import cluster
    from kdscale.ensemble.replica import Member, Result, train_members
    from kdscale.pipeline.teacher_rank import train_teacher

    placed, needs = teachers.placed(run.recipe)
    settings = placed.teachers
    ranks = settings.workers if settings.grouped else 0
    averaged = settings.model_copy(update={"model": model(run.recipe)})
    recipe = run.recipe.model_copy(update={"teachers": averaged})
    tasks = cluster.Tasks(tick, run.owner("student"))

    def finish(results: dict[int, Result]) -> None:
        for seed, result in results.items():
            if isinstance(result, RunFailure):
                tasks.failures[f"{KIND}-seed-{seed}"] = result
            elif isinstance(result, str):
                done(seed, result)

    for seed, folder in todo.items():
        member = Member(seed, folder, fingerprint(run, seed), ranks, stage="student")
        own = (
            (train_teacher, run.folder, recipe, member, needs.gpus)
            if ranks
            else (train_members, [member], stop_file(run.folder), recipe, run.dataset, needs.gpus)
        )
        name = f"{KIND}-seed-{seed}"
        tasks.submit(name, *own, needs=needs, ranks=ranks, retries=settings.retries, done=finish)
    return tasks

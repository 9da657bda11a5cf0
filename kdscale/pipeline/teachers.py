"""Stage 2, teachers: Ray trains the members, as many at once as fit, each from its own last checkpoint.

Small ones may share a process (`packs`); what they leave behind is the same.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscale.errors import RunFailure
from kdscale.files import digest
from kdscale.pipeline.packs import decide
from kdscale.pipeline.run import GROWS, HOW_ONLY, Run
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file
from kdscale.training.done import finished

if TYPE_CHECKING:
    from kdscale.cluster import Groups, Tasks

Then = Callable[["Tasks", int, str], None]
"""(tasks, seed, checksum of the weights): what to queue when a member is finished."""


def member_folder(run: Run, seed: int) -> Path:
    return run.folder / "teachers" / f"seed-{seed}"


def fingerprint(run: Run, seed: int) -> str:
    recipe = run.recipe
    return digest(
        {
            "stage": "teachers",
            "dataset": run.manifest.fingerprint,
            "teachers": recipe.teachers.model_dump(mode="json", exclude=set(HOW_ONLY | GROWS | {"first_seed"})),
            "data": recipe.data.model_dump(mode="json", include={"lanes", "window", "normalize"}),
            "seed": seed,
        }
    )


def members(run: Run) -> dict[int, str]:
    """The sha256 of the weights of each member that is finished, by seed."""
    found = {seed: finished(member_folder(run, seed), fingerprint(run, seed)) for seed in run.recipe.teachers.seeds}
    return {seed: checksum for seed, checksum in found.items() if checksum is not None}


def missing(run: Run) -> list[str]:
    done = members(run)
    return [f"seed-{seed}" for seed in run.recipe.teachers.seeds if seed not in done]


def work(run: Run, bars: Bars, then: Then | None = None, beside: "Groups | None" = None) -> float:
    """Train the members that are missing; `then` may queue work for each that is finished.

    Args:
        beside: a queue that is worked at the same time and waits for members.

    Returns:
        The seconds at the end in which all members were finished and only such work was left.
    """
    from kdscale import cluster
    from kdscale.ensemble.replica import Member, Result, packs, train_members

    recipe, teachers = run.recipe, run.recipe.teachers
    done = members(run)
    todo = [
        Member(seed, run.claim(f"teachers/seed-{seed}", fingerprint(run, seed)), fingerprint(run, seed))
        for seed in teachers.seeds
        if seed not in done
    ]

    def tick() -> None:
        bars.show("teachers", len(done), teachers.count)
        for member in todo:
            show_job(bars, f"  teacher seed-{member.seed}", status.read(member.folder), member.seed in done)

    last = time.monotonic()

    def finish(results: dict[int, Result]) -> None:
        nonlocal last
        last = time.monotonic()
        for seed, result in results.items():
            if isinstance(result, RunFailure):
                tasks.failures[f"teacher seed-{seed}"] = result
                continue
            done[seed] = result
            if then is not None:
                then(tasks, seed, result)

    needs = cluster.needs(teachers.cpus, teachers.gpus)
    size, least = decide(run, len(todo), needs, bars) if todo else (1, 1)
    tasks = cluster.Tasks(tick, stop_file(run.folder).exists)
    if then is not None:
        for seed, checksum in list(done.items()):
            then(tasks, seed, checksum)
    for pack in packs(todo, size, least):
        tasks.submit(
            ("teacher " if len(pack) == 1 else "teachers ") + " ".join(f"seed-{member.seed}" for member in pack),
            train_members,
            pack,
            stop_file(run.folder),
            recipe,
            run.dataset,
            needs.gpus,
            needs=needs,
            retries=teachers.retries,
            done=finish,
        )
    if beside is None:
        tasks.run()
    else:
        cluster.drive(beside, tasks, reserve=needs)
    tick()
    return time.monotonic() - last


def show_job(bars: Bars, name: str, state: dict[str, Any], done: bool) -> None:
    """A bar for a job that is training; none before and after."""
    step, steps = state.get("step"), state.get("steps")
    if done or state.get("state") != "running" or not isinstance(step, int) or not isinstance(steps, int):
        bars.hide(name)
    else:
        loss = f" loss {state['loss']:.4f}" if "loss" in state else ""
        bars.show(name, step, steps, f"epoch {state.get('epoch', 0):.1f}{loss}")

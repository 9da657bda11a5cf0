"""Stage 2, teachers: Ray trains the members, as many at once as fit, each from its own last checkpoint.

Small ones may share a process (`packs`), large ones take a group of DeepSpeed ranks (`teacher_rank`); what they leave behind
is the same. `attempts` has what happens when they fail.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscale.errors import RunFailure
from kdscale.files import digest, read_json, sha256
from kdscale.pipeline.packs import decide
from kdscale.pipeline.run import Run, what_members_are
from kdscale.recipe import Recipe
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file
from kdscale.training.done import DONE, finished

if TYPE_CHECKING:
    from kdscale.cluster import Groups, Needs, Tasks

Then = Callable[["Tasks", int, str], None]
"""(tasks, seed, checksum of the weights): what to queue when a member is finished."""


def member_folder(run: Run, seed: int) -> Path:
    return run.folder / "teachers" / f"seed-{seed}"


def fingerprint(run: Run, seed: int) -> str:
    recipe = run.recipe
    parts = {
        "stage": "teachers",
        "dataset": run.manifest.fingerprint,
        "teachers": what_members_are(recipe.teachers),
        "data": recipe.data.model_dump(mode="json", include={"lanes", "window", "normalize"}),
        "seed": seed,
    }
    return digest({**parts, "of": source(run, seed)} if recipe.teachers.weights else parts)


def source(run: Run, seed: int) -> str | None:
    """The sha256 of the file in teachers.weights that is this member; where it is gone, of the one that was taken."""
    settings = run.recipe.teachers
    file = Path(settings.weights[settings.seeds.index(seed)])
    if file.is_file():
        stat = file.stat()
        return _sha256(file, stat.st_size, stat.st_mtime_ns)
    return (read_json(member_folder(run, seed) / DONE) or {}).get("of")


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, size: int, changed: int) -> str:
    return sha256(file)


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
    from kdscale.pipeline.attempts import Attempts
    from kdscale.pipeline.sharing import Sharing
    from kdscale.pipeline.teacher_rank import train_teacher

    recipe, needs = placed(run.recipe)
    teachers = recipe.teachers
    ranks = teachers.workers if teachers.grouped else 0
    done = members(run)
    todo = [
        Member(seed, run.claim(f"teachers/seed-{seed}", fingerprint(run, seed)), fingerprint(run, seed), ranks)
        for seed in teachers.seeds
        if seed not in done
    ]

    def tick() -> None:
        sharing.look()
        bars.show("teachers", len(done), teachers.count)
        for member in todo:
            show_job(bars, f"  teacher seed-{member.seed}", status.read(member.folder), member.seed in done)

    last = time.monotonic()

    def finished_member(seed: int, checksum: str) -> None:
        done[seed] = checksum
        if then is not None:
            then(tasks, seed, checksum)

    def queue(pack: Sequence[Member], first: bool) -> None:
        def ended(results: dict[int, Result]) -> None:
            nonlocal last
            last = time.monotonic()
            attempts.ended(pack, results)
            note_failures()

        def crashed(error: Exception) -> None:
            attempts.crashed(pack, error)
            note_failures()

        names = ("teacher " if len(pack) == 1 else "teachers ") + " ".join(f"seed-{member.seed}" for member in pack)
        own = (
            (train_teacher, run.folder, recipe, pack[0], needs.gpus)
            if ranks
            else (train_members, pack, stop_file(run.folder), recipe, run.dataset, needs.gpus)
        )
        tasks.submit(names, *own, needs=needs, ranks=ranks, first=first, done=ended, failed=crashed)

    def note_failures() -> None:
        tasks.failures.update({f"teacher seed-{seed}": failed for seed, failed in attempts.given_up.items()})

    one_by_one = beside is not None and teachers.pack == "auto"  # members that are waited for come as early as they can
    size, least = decide(run, len(todo), needs, bars) if todo and not ranks and not one_by_one else (1, 1)
    tasks = cluster.Tasks(tick, run.owner("teachers"), teachers.placement)
    attempts = Attempts(queue, finished_member, teachers.retries)
    sharing = Sharing(
        lambda: cluster.places(needs) if teachers.pack == "auto" and not tasks.waiting else 0, lambda: attempts.out
    )
    if then is not None:
        for seed, checksum in list(done.items()):
            then(tasks, seed, checksum)
    attempts.begin(packs(todo, size, least))
    try:
        if beside is None:
            tasks.run()
        else:
            cluster.drive(beside, tasks, reserve=needs * max(1, ranks))
    except RunFailure as failure:
        raise attempts.failure(run.folder) or failure from None
    tick()
    return time.monotonic() - last


def placed(recipe: Recipe) -> tuple[Recipe, "Needs"]:
    """The recipe with as many ranks a member as the cluster has places for, and what each process needs."""
    from kdscale import cluster

    teachers = recipe.teachers
    needs = cluster.needs(teachers.cpus, teachers.gpus)
    if not teachers.grouped:
        return recipe, needs
    ranks = cluster.ranks(teachers.workers, teachers.gpus, needs)
    return recipe.model_copy(update={"teachers": teachers.model_copy(update={"workers": ranks})}), needs


def show_job(bars: Bars, name: str, state: dict[str, Any], done: bool) -> None:
    """A bar for a job that is training; none before and after."""
    step, steps = state.get("step"), state.get("steps")
    if note := state.get("note"):
        bars.remark(f"{name.strip()}: {note}")
    if done or state.get("state") != "running" or not isinstance(step, int) or not isinstance(steps, int):
        bars.hide(name)
    else:
        loss = f" loss {state['loss']:.4f}" if "loss" in state else ""
        bars.show(name, step, steps, f"epoch {state.get('epoch', 0):.1f}{loss}")

"""Whether teachers are packed, and how many to a pack: decided once for a run and kept in RUN/teachers/pack.json.

A calibration depends on the moment, so a command that goes on with a run must not hold another one.
"""

import math
import socket
from typing import TYPE_CHECKING, Any

from kdscale.errors import RunFailure, UserError
from kdscale.files import digest, read_json, write_json
from kdscale.pipeline.run import Run, what_members_are
from kdscale.tracking.progress import Bars

if TYPE_CHECKING:
    from kdscale.cluster import Needs

FILE = "pack.json"
ENOUGH = 64
"""Processes that calibrate at once at most."""


def recorded(run: Run) -> dict[str, Any] | None:
    """What was decided for this recipe, if anything was."""
    kept: dict[str, Any] | None = read_json(run.folder / "teachers" / FILE)
    return kept if kept is not None and kept["of"] == _asked(run) else None


def decide(run: Run, members: int, needs: "Needs", bars: Bars) -> tuple[int, int]:
    """How many members a pack holds at most, and how many packs there are to be at least.

    Args:
        members: how many are to be trained now.
        needs: what one process takes.
    """
    from kdscale import cluster

    places = cluster.places(needs)
    pack = run.recipe.teachers.pack
    kept = recorded(run)
    if kept is not None:
        return int(kept["size"]), places if pack == "auto" else 1
    if pack != "auto":
        _keep(run, int(pack), by="recipe")
        return int(pack), 1
    if members <= places:
        return 1, places  # each has a place of its own
    if not _worth_trying(run, needs):
        _keep(run, 1, by="model", why="on a CPU only fully connected chains gain by being packed")
        return 1, places
    seconds = _calibrate(run, math.ceil(members / places), min(members, places, ENOUGH), needs)
    if seconds is None:
        return 1, places
    from kdscale.ensemble.calibration import best

    size = best(seconds, members, places)
    _keep(run, size, by="calibration", milliseconds={n: round(1000 * s, 3) for n, s in seconds.items()})
    if size > 1:
        speed = seconds[1] * size / seconds[size]
        bars.say(f"teachers: up to {size} to a process, {speed:.1f} times as fast there as one after the other")
    return size, places


def check(run: Run, gpus: float) -> None:
    """Refuse a pack that the recipe insists on and the model does not allow.

    Raises:
        UserError: says why.
    """
    import torch

    from kdscale.ensemble import packing
    from kdscale.models import zoo

    teachers = run.recipe.teachers
    if teachers.pack in ("auto", 1) or not gpus:
        return  # on a CPU every model can be packed
    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)
    models = [zoo.build(teachers.model, shape, classes, seed) for seed in range(2)]
    packing.check(models, torch.randn(4, *shape), teachers)


def _worth_trying(run: Run, needs: "Needs") -> bool:
    import torch

    from kdscale.ensemble import packing
    from kdscale.models import zoo

    model = zoo.build(run.recipe.teachers.model, run.manifest.sample.shape, len(run.manifest.classes), 0)
    device = torch.device("cuda" if needs.gpus else "cpu")
    return packing.way(model, device, needs.cpus) != "in turn"


def _calibrate(run: Run, most: int, at_once: int, needs: "Needs") -> dict[int, float] | None:
    """Seconds of a step by size, the mean of processes that measure side by side as members will work; None if it failed.

    Where it fails the members will, and they say why.
    """
    from kdscale import cluster
    from kdscale.ensemble.calibration import measure, sizes

    found: list[dict[int, float]] = []
    tasks = cluster.Tasks(lambda: None, run.owner("teachers"))
    for _ in range(at_once):
        tasks.submit(
            "calibration", measure, run.recipe, run.dataset, sizes(most), needs.gpus, needs=needs, done=found.append
        )
    try:
        tasks.run()
    except (RunFailure, UserError):
        return None
    common = set.intersection(*(set(each) for each in found))
    return {size: sum(each[size] for each in found) / len(found) for size in sorted(common)} or None


def _keep(run: Run, size: int, by: str, **facts: Any) -> None:
    record = {"size": size, "by": by, "of": _asked(run), "host": socket.gethostname(), **facts}
    write_json(run.folder / "teachers" / FILE, record)


def _asked(run: Run) -> str:
    """What a decision is for: the members, and what the recipe says of how they are trained."""
    teachers = run.recipe.teachers
    return digest(
        {
            "dataset": run.manifest.fingerprint,
            "members": what_members_are(teachers),
            "how": teachers.model_dump(mode="json", include={"pack", "cpus", "gpus"}),
        }
    )

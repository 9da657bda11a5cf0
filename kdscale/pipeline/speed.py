"""What it takes to serve the ensemble, and what its student takes: latency and throughput, measured on a worker of stage 5.

All models take turns in every round, so that what slows the machine for a while slows all alike, and ratios can be trusted more
than milliseconds. They are kept with what they are of: the same networks on the same kind of device are not measured again.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscale.files import digest, read_json, write_json
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from kdscale.cluster import Needs
    from kdscale.pipeline.evaluate import Trained

FILE = "evaluate-speed.json"
SIZES = (1, 64)
"""Batches whose latency is measured."""
FULL = 256
"""Batch whose throughput is measured."""
SECONDS = 0.6
"""For all models and batches together, about."""
MOST_ROUNDS = 50
MOST_LOADED = 8
"""Members that are loaded: larger ensembles go through them again and again."""


def fingerprint(run: Run, members: Sequence["Trained"], student: "Trained", needs: "Needs") -> str:
    return digest(
        {
            "members": [member.spec.model_dump(mode="json") for member in members],
            "student": student.spec.model_dump(mode="json"),
            "sample": run.manifest.sample.model_dump(mode="json"),
            "classes": len(run.manifest.classes),
            "device": [needs.cpus, needs.gpus],
        }
    )


def kept(run: Run, name: str) -> dict[str, Any] | None:
    """What was measured of the same networks before."""
    found: dict[str, Any] | None = read_json(run.folder / FILE)
    return found["speed"] if found is not None and found["fingerprint"] == name else None


def measure(
    folder: Path, recipe: Recipe, name: str, members: Sequence["Trained"], student: "Trained", needs: "Needs"
) -> dict[str, Any]:
    """On a worker: measure a member, the ensemble and the student, and keep it under the fingerprint `name`."""
    import torch

    from kdscale.pipeline import workers
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    manifest = run.manifest
    *networks, pupil = (
        workers.predictor(one.folder, one.checksum, one.spec, manifest, device)
        for one in (*members[:MOST_LOADED], student)
    )

    def ensemble(x: "Tensor") -> "Tensor":
        p = networks[0](x).softmax(1)
        for number in range(1, len(members)):
            p += networks[number % len(networks)](x).softmax(1)
        return p / len(members)

    ways: dict[str, Callable[[Tensor], Tensor]] = {"teacher": networks[0], "ensemble": ensemble, "student": pupil}
    found: dict[str, dict[str, float]] = {way: {} for way in ways}
    with torch.inference_mode():
        for size in (*SIZES, FULL):
            x = torch.rand(size, *manifest.sample.shape, device=device)
            for way, seconds in zip(ways, in_turn([_once(way, x) for way in ways.values()]), strict=True):
                if size == FULL:
                    found[way]["throughput"] = size / seconds
                else:
                    found[way][f"latency_{size}"] = 1000 * seconds
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    speed = {"device": kind, "threads": torch.get_num_threads(), "batch": FULL, "models": found}
    write_json(folder / FILE, {"fingerprint": name, "speed": speed})
    return speed


def in_turn(ways: Sequence[Callable[[], object]]) -> list[float]:
    """Median seconds of each of several calls that take turns, after one turn that is not counted."""
    for way in ways:
        way()
    times: list[list[float]] = []
    end = time.perf_counter() + SECONDS / (len(SIZES) + 1)
    while not times or (time.perf_counter() < end and len(times) < MOST_ROUNDS):
        times.append([])
        for way in ways:
            start = time.perf_counter()
            way()
            times[-1].append(time.perf_counter() - start)
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _once(way: Callable[["Tensor"], "Tensor"], x: "Tensor") -> Callable[[], object]:
    """One forward pass, to its end: reading an output waits for a GPU."""

    def once() -> object:
        return way(x)[0, 0].item()

    return once

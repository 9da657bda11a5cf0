"""How fast members train alone and in packs of several sizes, measured in about a second: behind ``teachers.pack: auto``.

The steps are real ones, of the recipe's own model, batch size, views and precision; only the samples are made up, so that
no shard is read before it is known who needs it.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from kdscale.data.batches import Batch, Pixels
from kdscale.data.manifest import Manifest
from kdscale.ensemble import packing
from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import Recipe
from kdscale.seeds import derive
from kdscale.training import objectives
from kdscale.training.engine import use_device

SECONDS = 0.6
"""About as long a calibration takes, beside building the models."""
ROUNDS = 2
"""Every size takes its turn in each. A turn is many steps: its first half finds in the caches and in the allocator what
the size before left there, and is not counted."""
LARGEST = 32
"""Members in a pack at most: beyond, nothing more is saved."""
GAIN = 1.1
"""So much faster must packs be, lest noise decide."""


def sizes(most: int) -> list[int]:
    """The sizes to try, from one member to `most`, each half of the next."""
    tried = [min(most, LARGEST)]
    while tried[-1] > 1:
        tried.append(math.ceil(tried[-1] / 2))
    return tried[::-1]


def measure(recipe: Recipe, dataset_folder: Path, tried: Sequence[int], gpus: float) -> dict[int, float]:
    """Seconds of one step of a pack, by its size; a size is missing where it is refused or would only cost time."""
    teachers = recipe.teachers
    device = use_device(teachers.cpus, gpus)
    manifest = Manifest.load(dataset_folder)
    steps: dict[int, Callable[[], None]] = {}
    begun, longest = math.inf, 0.0
    for size in tried:
        if time.perf_counter() - begun + 2 * ROUNDS * longest > SECONDS:
            break
        step = _step(recipe, manifest, size, device)
        try:
            step()
        except UserError:
            break
        begun = min(begun, time.perf_counter())  # torch loads much when it takes its first step
        longest = _seconds(step, device)
        steps[size] = step
    left = max(0.0, SECONDS - (time.perf_counter() - begun))
    taken: dict[int, list[float]] = {size: [] for size in steps}
    for _ in range(ROUNDS):
        for size, step in steps.items():
            taken[size] += _turn(step, device, left / ROUNDS / len(steps))
    return {size: statistics.median(seconds) for size, seconds in taken.items()}


def _turn(step: Callable[[], None], device: torch.device, seconds: float) -> list[float]:
    """What the steps of a turn took, of its second half."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 2 or time.perf_counter() < end:
        taken.append(_seconds(step, device))
    return taken[len(taken) // 2 :]


def best(seconds: Mapping[int, float], members: int, places: int) -> int:
    """The size of packs by which `members` are through first, where `places` processes work at once."""

    def all_through(size: int) -> float:
        count = max(math.ceil(members / size), min(members, places))
        each = math.ceil(members / count)
        return math.ceil(count / places) * seconds[min(tried for tried in seconds if tried >= each)]

    fastest = min(seconds, key=all_through)
    return fastest if all_through(fastest) * GAIN < all_through(1) else 1


def _step(recipe: Recipe, manifest: Manifest, size: int, device: torch.device) -> Callable[[], None]:
    """A step of a pack on made-up samples."""
    teachers, sample, classes = recipe.teachers, manifest.sample, len(manifest.classes)
    models = [zoo.build(teachers.model, sample.shape, classes, seed) for seed in range(size)]
    engine = packing.engine(models, device, teachers)
    pixels = Pixels(manifest, recipe.data.normalize, teachers.views, 0, device)
    rows = size * teachers.batch_size
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (rows, *sample.shape)).astype(np.uint8 if sample.kind == "image" else np.float32)
    ids, view = np.arange(rows, dtype=np.uint64), np.ones(rows, np.int64)
    y = torch.from_numpy(random.integers(0, classes, rows)).to(device)
    each = (size, teachers.batch_size) if size > 1 else (teachers.batch_size,)
    number = iter(range(2**60))

    def step() -> None:
        made = pixels(x, ids, view, np.zeros(rows, np.uint64) if size > 1 else None)
        engine.seed([derive(seed, next(number)) for seed in range(size)])
        engine.step(Batch(made.view(*each, *sample.shape), y.view(each)), objectives.hard, teachers.lr)

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """On a CPU only what the step itself takes of its one core, so that other work on the machine matters little."""
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start

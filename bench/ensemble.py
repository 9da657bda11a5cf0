"""The training of ensembles measured: `python bench/ensemble.py --json [--quick]` from the repository root."""

import itertools
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import members
import numpy as np
import torch
from figures import Figure, Options, main, ratio, seconds_of, side_by_side, table
from members import CORES, FRESH, Case, Workers, halves

from kdscale.data import importing
from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.data.order import Order
from kdscale.ensemble import packing
from kdscale.ensemble.calibration import best, measure, sizes
from kdscale.ensemble.packing import way
from kdscale.models import zoo
from kdscale.recipe import Data, Recipe, Tracking
from kdscale.seeds import derive
from kdscale.training import objectives
from kdscale.training.engine import use_device

N = 10
FEW = 20
"""Steps of a stage that is there to start the processes."""


def case(name: str, model: str, batch: int, small: bool = False, **options: Any) -> Case:
    return Case(f"{name}, batch {batch}", model, tuple(options.items()), batch, small)


CASES = [
    case("784-64-64-10", "mlp", 32, small=True, hidden=[64, 64]),
    case("784-64-64-10", "mlp", 128, small=True, hidden=[64, 64]),
    case("784-256-256-10", "mlp", 32, hidden=[256, 256]),
    case("784-256-256-10", "mlp", 128, hidden=[256, 256]),
    case("784-1200-1200-10", "mlp", 128, hidden=[1200, 1200]),
    case("convnet", "convnet", 32),
    case("convnet", "convnet", 128),
]
QUICK = [CASES[0], CASES[3], case("convnet of width 8", "convnet", 32, width=8)]


def speed(options: Options) -> list[Figure]:
    """ten members on two cores: what `teachers.pack: auto` chooses, against ways made by hand

    Where auto trains each member alone it is the process for each core by another name, and their ratio is 1 but for the
    memory format of convolutions and for noise, which the last figure of a case shows: two equal sets of processes.
    """
    peak = Workers(members.peak, CASES[0], [1], CORES)
    flops = 2 * 2048**3 * 5 / min(seconds_of(lambda: peak(5)) for _ in range(4))
    peak.close()
    found = [Figure("peak of a matrix product, float32, both cores", flops / 1e9, "GFLOP/s")]
    for each in QUICK if options.quick else CASES:
        found += _speed_of(each, flops, options.quick)
    return found


def _speed_of(each: Case, flops: float, quick: bool) -> list[Figure]:
    size = _chosen(each)
    ways = {
        "plain loop": Workers(members.plain, each, [N], CORES),
        "process for each core": Workers(members.plain, each, halves(N), 1),
        "vmap": Workers(members.vectorised, each, [N], CORES),
        f"auto (packs of {size})" if size > 1 else "auto (alone)": Workers(members.ours, each, halves(N), 1, size),
        "process for each core, again": Workers(members.plain, each, halves(N), 1),
    }
    once = min(seconds_of(lambda: ways["plain loop"](4)) for _ in range(2)) / 4
    steps = max(4, round((0.2 if quick else 0.6) / once))
    times = side_by_side([lambda one=one: one(steps) for one in ways.values()], 5 if quick else 9)
    for one in ways.values():
        one.close()
    samples = N * each.batch * steps
    rates = [samples / statistics.median(column) for column in times]
    part = [rate * each.operations() / flops for rate in rates]
    rows = [[name, f"{rate:,.0f}", f"{p:.2f}"] for name, rate, p in zip(ways, rates, part, strict=True)]
    print(f"\n{each.name}, {N} members\n" + table(["way", "samples x members a second", "of the peak"], rows))
    loop, processes, stacked, auto, again = times
    by_hand = min(loop, processes, stacked, key=statistics.median)
    return [
        Figure(f"{each.name}: auto", rates[3], "samples x members/s"),
        Figure(f"{each.name}: auto, of the peak", part[3], ""),
        Figure(f"{each.name}: auto over the best made by hand", ratio(by_hand, auto), "x", ">= 1.0"),
        Figure(f"{each.name}: auto over the plain loop", ratio(loop, auto), "x", ">= 1.5" if each.small else None),
        Figure(f"{each.name}: one way over itself", ratio(processes, again), "x"),
    ]


def _chosen(each: Case) -> int:
    """What `teachers.pack: auto` decides for the case, on two cores at once."""
    model = zoo.build(each.spec, members.SHAPE, members.CLASSES, 0)
    if way(model, members.CPU, 1) == "in turn":
        return 1
    with tempfile.TemporaryDirectory() as name:
        sample = SampleSpec(kind="image", shape=members.SHAPE)
        Manifest(classes=list("0123456789"), sample=sample, mean=[0.1], std=[0.3], splits={}).save(Path(name))
        recipe = _recipe(each, epochs=1)
        with ProcessPoolExecutor(CORES, mp_context=FRESH) as pool:
            runs = [pool.submit(measure, recipe, Path(name), sizes(N // CORES), 0.0) for _ in range(CORES)]
            seen = [run.result() for run in runs]
    common = set.intersection(*(set(one) for one in seen))
    return best({size: sum(one[size] for one in seen) / CORES for size in common}, N, CORES)


def _recipe(each: Case, epochs: float) -> Recipe:
    teachers = {"model": each.spec, "batch_size": each.batch, "epochs": epochs, "count": CORES, "pack": 1, "gpus": 0}
    return Recipe(
        name="bench",
        data=Data(source="npz", test=0.02, validation=0, shard_size=1024),
        teachers=teachers,
        student={"model": "mlp"},
        tracking=Tracking(),
    )


def orchestration(options: Options) -> list[Figure]:
    """what Ray, checkpoints and records cost

    A stand-in for members that train for a minute: a first stage of a few steps, which starts the processes and loads
    torch, then two members side by side for seconds, and for several times as many, in turn with the same steps in two bare
    processes. What longer stages take more over what longer bare loops take more is the cost of a second of training; of
    the first stage all but its steps is the cost of starting. The figure is for N members of a minute each on two cores,
    Ray's own start included.
    """
    from kdscale.cluster import Needs, Owner, Tasks
    from launcher import local

    each = CASES[3]
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name).resolve()
        random = np.random.default_rng(0)
        count = 8192
        np.savez(folder / "x.npz", x=random.integers(0, 255, (count, 28, 28), np.uint8), y=np.arange(count) % 10)
        recipe = _recipe(each, 1)
        data = recipe.data.model_copy(update={"path": str(folder / "x.npz")})
        importing.import_dataset(data, 0, folder / "data", lambda done, total: None)
        with ExitStack() as stack, ProcessPoolExecutor(CORES, mp_context=FRESH) as pool:

            def bare_loops(steps: int) -> float:
                runs = [pool.submit(_bare, folder / "data", recipe, seed, steps) for seed in range(CORES)]
                return max(run.result() for run in runs)

            def stage(steps: int) -> float:
                return _stage(folder / f"run-{next(numbers)}", recipe, data, steps, each.batch)

            def one_round() -> list[float]:
                return [bare_loops(short), stage(short), bare_loops(long), stage(long)]

            numbers = itertools.count()
            bare_loops(FEW)
            a_step = bare_loops(200) / 200
            short, long = (round(seconds / a_step) for seconds in ((1, 3) if options.quick else (3, 12)))
            begun = time.perf_counter()
            stack.enter_context(local.connection(recipe.cluster.model_copy(update={"cpus": CORES})))
            start_of_ray = time.perf_counter() - begun
            cold = stage(FEW)
            times = np.array([one_round() for _ in range(3 if options.quick else 6)])
            warm: list[float] = []
            for _ in range(5 if options.quick else 20):
                tasks = Tasks(lambda: None, Owner(lambda: False))
                asked = time.time()
                tasks.submit("clock", _clock, needs=Needs(), done=lambda now, asked=asked: warm.append(now - asked))
                tasks.run()
    bare, staged = times[:, 2] - times[:, 0], times[:, 3] - times[:, 1]
    slope = ratio(staged, bare)
    start = cold - slope * FEW * a_step
    work = 60.0 * N / CORES
    total = start_of_ray + start + slope * work + (N / CORES - 1) * statistics.median(warm)
    print(table(["bare", "stage", "bare, longer", "stage, longer"], [[f"{x:.2f} s" for x in row] for row in times]))
    return [
        Figure("start of Ray", start_of_ray, "s"),
        Figure("start of the first stage, torch and all", start, "s"),
        Figure("a second of training in a stage over a bare one", slope, "x"),
        Figure("the same, from the least round to the most", float(np.ptp(staged / bare)), "x"),
        Figure(f"overhead for {N} members of a minute on {CORES} cores", 100 * (total / work - 1), "%", "<= 5"),
        Figure("start of a warm Ray task", statistics.median(warm), "s", "<= 0.1"),
    ]


def _stage(folder: Path, recipe: Recipe, data: Data, steps: int, batch: int) -> float:
    """Seconds of the teachers stage for so many steps, in a new run directory beside the dataset."""
    from rich.console import Console

    from kdscale.pipeline import teachers
    from kdscale.pipeline.run import Run
    from kdscale.tracking.progress import Bars

    dataset = folder.with_name("data")
    asked = recipe.teachers.model_copy(update={"epochs": steps * batch / Manifest.load(dataset).samples("train")})
    run = Run(folder, recipe.model_copy(update={"data": data, "teachers": asked}))
    run.folder.mkdir()
    (run.folder / "data").symlink_to(dataset)
    with Bars(Console(quiet=True)) as bars:
        return seconds_of(lambda: teachers.work(run, bars))


def _clock() -> float:
    return time.time()


def _bare(folder: Path, recipe: Recipe, seed: int, steps: int) -> float:
    """Seconds of the same steps with the same batches, and nothing around them; shards are read before."""
    device, settings, dataset = use_device(1, 0), recipe.teachers, Dataset(folder, "train")
    order = Order(dataset.sizes, seed, settings.batch_size, recipe.data.lanes, recipe.data.window)
    pixels = Pixels(dataset.manifest, True, settings.views, seed, device)
    batches = Batches(dataset, order, pixels, lambda epoch: epoch + 1, range(order.lanes))
    engine = packing.engine([zoo.build(settings.model, members.SHAPE, members.CLASSES, seed)], device, settings)
    for step in range(2):
        engine.step(batches(step), objectives.hard, 1e-3)

    def loop() -> None:
        for step in range(steps):
            engine.seed([derive(seed, step)])
            engine.step(batches(step), objectives.hard, 1e-3)

    return seconds_of(loop)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(__doc__ or "", [speed, orchestration])

"""What a student's step costs: with the store and without, beside teachers on line, from shards and from memory, in DeepSpeed
and in a plain loop.

All ways of a section take the same number of steps in every round, whole epochs where they read data, so that what is
done once a window is in every round as often as in training.
"""

import io
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from figures import Figure, Options, ratio, side_by_side, table
from PIL import Image
from torch import Tensor, nn

from kdscale.data import shards
from kdscale.data.batches import Batch, Batches, Pixels
from kdscale.data.columns import Columns
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.data.order import Order
from kdscale.data.shards import Decoded, Encoded
from kdscale.ensemble.targets import Targets
from kdscale.logits import Store, StoreInfo, codecs
from kdscale.logits.records import Slot
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Student, ViewSpec
from kdscale.training import objectives
from kdscale.training.deepspeed_engine import DeepSpeedEngine
from kdscale.training.engine import TorchEngine

SAMPLES, BATCH, LANES, TEACHERS, T = 4096, 128, 8, 5, 4.0
STEPS = SAMPLES // BATCH
CPU = torch.device("cpu")
STUDENT = ModelSpec(name="mlp", hidden=[800, 800])
TEACHER = ModelSpec(name="mlp", hidden=[1200, 1200])
Steps = Callable[[int], object]
"""Takes the step of a number."""


def store_steps(options: Options) -> list[Figure]:
    """A step of Hinton's MNIST student with soft targets from a store, and with its teachers on line, over one with labels alone.

    On one thread, as a student's rank has unless the recipe says otherwise.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: list[Figure] = []
    for classes, kinds in ((10, ("dense",)), (1000, ("topk", "dense"))):
        with tempfile.TemporaryDirectory() as folder:
            dataset = digits(Path(folder) / "data", classes)
            ways = {"labels, no store": epoch(learner(classes), batches(dataset), objectives.hard)}
            for kind in kinds:
                targets = Targets(stored(Path(folder) / kind, dataset, kind), T)
                from_store = batches(dataset, joined(dataset, targets))
                ways[f"{kind} targets of {TEACHERS}"] = epoch(
                    learner(classes), from_store, objectives.distillation(T, 0.1)
                )
            times = side_by_side(list(ways.values()), 5 if options.quick else 15)
            on_line = epoch(learner(classes), online(batches(dataset), classes), objectives.distillation(T, 0.1))
            beside = side_by_side([list(ways.values())[1], on_line], 1 if options.quick else 5)
        names = list(ways)
        show(f"{classes:,} classes, batch {BATCH}, 784-800-800-{classes}", names, times, STEPS)
        show(f"{TEACHERS} teachers 784-1200-1200-{classes}", [names[1], "teachers on line"], beside, STEPS)
        for name, column in zip(names[1:], times[1:], strict=True):
            value = ratio(column, times[0])
            found.append(Figure(f"step with {name}, over labels alone, C={classes}", value, "ratio", "<= 1.05"))
        value = ratio(beside[1], beside[0])
        found.append(Figure(f"step with {TEACHERS} teachers on line, over {names[1]}, C={classes}", value, "ratio"))
    torch.set_num_threads(threads)
    return found


def data_path(options: Options) -> list[Figure]:
    """A step of an MNIST-size network on batches from shards, over one on tensors that lie in memory, normalised and in order."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(Path(folder), 10)
        made = batches(dataset)
        x, y = (torch.cat([getattr(made(step), name) for step in range(STEPS)]) for name in ("x", "y"))

        def in_memory(step: int) -> Batch:
            start = step % STEPS * BATCH
            return Batch(x[start : start + BATCH], y[start : start + BATCH])

        ways = {
            "from memory": epoch(plain_engine(STUDENT, (1, 28, 28), 10), in_memory, objectives.hard),
            "from shards": epoch(plain_engine(STUDENT, (1, 28, 28), 10), made, objectives.hard),
        }
        times = side_by_side(list(ways.values()), 5 if options.quick else 15)
    show(f"784-800-800-10, batch {BATCH}, {torch.get_num_threads()} threads", list(ways), times, STEPS)
    return [
        Figure(
            "step from shards over step from memory, MLP of MNIST's size", ratio(times[1], times[0]), "ratio", "<= 1.1"
        )
    ]


def deepspeed_overhead(options: Options) -> list[Figure]:
    """DeepSpeed at one rank and ZeRO 0 over a plain torch loop."""
    group()
    found = []
    wide = ModelSpec(name="wide_resnet", depth=16, width=4)
    for name, spec, shape, size, steps, bound in (
        ("WRN-16-4", wide, (3, 32, 32), 16 if options.quick else 64, 1 if options.quick else 2, "< 1.1"),
        ("784-800-800-10", STUDENT, (1, 28, 28), BATCH, 20, None),
    ):
        random = torch.Generator().manual_seed(0)
        batch = Batch(torch.randn(size, *shape, generator=random), torch.randint(10, (size,), generator=random))
        ways = [plain_loop(spec, shape, batch, steps), engine_loop(spec, shape, batch, steps)]
        times = side_by_side(ways, 5 if options.quick else 9)
        show(f"{name}, batch {size}", ["plain torch loop", "DeepSpeed"], times, steps)
        found.append(Figure(f"DeepSpeed over a plain torch loop, {name}", ratio(times[1], times[0]), "ratio", bound))
    return found


def plain_loop(spec: ModelSpec, shape: tuple[int, ...], batch: Batch, steps: int) -> Callable[[], object]:
    """What one would write by hand, with the memory format and the optimiser that the engines take."""
    model = zoo.build(spec, shape, 10, 0).train()
    channels_last = any(isinstance(module, nn.Conv2d) for module in model.modules())
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=wanted)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loop() -> None:
        for _ in range(steps):
            loss = F.cross_entropy(model(batch.x.contiguous(memory_format=wanted)), batch.y)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    return loop


def engine_loop(spec: ModelSpec, shape: tuple[int, ...], batch: Batch, steps: int) -> Callable[[], object]:
    """The same by kdscale's DeepSpeed engine."""
    engine = DeepSpeedEngine(zoo.build(spec, shape, 10, 0), settings(spec, len(batch.y)), CPU)

    def loop() -> None:
        for _ in range(steps):
            engine.step(batch, objectives.hard, 1e-3)

    return loop


def digits(folder: Path, classes: int) -> Dataset:
    """SAMPLES noisy pictures of MNIST's size in four shards."""
    random = np.random.default_rng(0)
    written = []
    for number in range(4):
        samples = []
        for i in range(SAMPLES // 4):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (28, 28)).astype(np.uint8)).save(buffer, "png", compress_level=1)
            samples.append(Encoded(f"{number}-{i:05d}", "png", buffer.getvalue(), int(random.integers(classes))))
        written.append(shards.write(folder, f"train-{number:06d}.tar", samples))
    names, sample = [str(c) for c in range(classes)], SampleSpec(kind="image", shape=(1, 28, 28))
    manifest = Manifest(classes=names, sample=sample, mean=[0.5], std=[0.3], splits={"train": written})
    manifest.save(folder)
    return Dataset(folder, "train")


def batches(dataset: Dataset, join: Any = None) -> Batches:
    order = Order(dataset.sizes, 0, BATCH, LANES, 8192)
    return Batches(dataset, order, Pixels(dataset.manifest, True, ViewSpec(), 0, CPU), lambda _: 0, range(LANES), join)


def joined(dataset: Dataset, targets: Targets) -> Callable[[int, Decoded, int, int], Columns]:
    def join(number: int, decoded: Decoded, view: int, epoch: int) -> Columns:
        return targets.shard(dataset.shards[number].name, decoded.keys, view, epoch)

    return join


def stored(folder: Path, dataset: Dataset, kind: str) -> Store:
    """A store of TEACHERS random members."""
    classes = len(dataset.manifest.classes)
    codec = codecs.make(kind, k=32, temperatures=[T]) if kind == "topk" else codecs.make(kind)
    info = StoreInfo(dataset=dataset.manifest.fingerprint, classes=classes, codec=codec.describe())
    store, random = Store.create(folder, info), np.random.default_rng(1)
    for number, shard in enumerate(dataset.shards):
        keys = dataset.decoded(number).keys
        for seed in range(TEACHERS):
            logits = random.normal(size=(len(keys), classes)).astype(np.float32) * 3
            store.commit(Slot(shard.name, 0, f"seed-{seed}"), keys, logits, "weights")
    return store


def online(source: Batches, classes: int) -> Callable[[int], Batch]:
    """The batches with targets that the teachers make as they are needed."""
    teachers = [zoo.build(TEACHER, (1, 28, 28), classes, seed).eval() for seed in range(TEACHERS)]

    def at(step: int) -> Batch:
        batch = source(step)
        with torch.inference_mode():
            each: list[Tensor] = [(teacher(batch.x) / T).softmax(1) for teacher in teachers]
            mean = torch.stack(each).mean(0)
        return Batch(batch.x, batch.y, {"p": mean.clone()}, step)

    return at


def epoch(engine: Any, source: Callable[[int], Batch], objective: objectives.Objective) -> Callable[[], None]:
    """The next epoch's steps, each time it is called."""
    done = 0

    def steps() -> None:
        nonlocal done
        for _ in range(STEPS):
            engine.step(source(done), objective, 1e-3)
            done += 1

    return steps


def learner(classes: int) -> DeepSpeedEngine:
    group()
    return DeepSpeedEngine(zoo.build(STUDENT, (1, 28, 28), classes, 0), settings(STUDENT, BATCH), CPU)


def plain_engine(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> TorchEngine:
    return TorchEngine(zoo.build(spec, shape, classes, 0), CPU)


def settings(spec: ModelSpec, batch: int) -> Student:
    return Student(model=spec, batch_size=batch, workers=1, deepspeed={"zero_optimization": {"stage": 0}})


def group() -> None:
    """A process group of this process alone, for DeepSpeed."""
    if dist.is_initialized():
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    store = dist.FileStore(str(Path(tempfile.mkdtemp()) / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)


def show(title: str, names: Sequence[str], times: Sequence[Sequence[float]], steps: int) -> None:
    rows = [
        [name, f"{1e3 * statistics.median(column) / steps:.2f}", f"{ratio(column, times[0]):.3f}"]
        for name, column in zip(names, times, strict=True)
    ]
    print(f"\n{title}")
    print(table(["way", "ms a step", "of the first"], rows), flush=True)

"""The plan of a run: what is done, what is reused, the store's bytes, and about how long it takes.

Times are estimates: floating-point operations of a forward pass, counted by torch, times three for training, at the
speed of a short matrix multiplication on this machine, and what starting up and each step cost besides.
"""

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from kdscale.data.manifest import FILE, Manifest
from kdscale.data.sources import open_source, shards
from kdscale.pipeline import data, evaluate, joint, logits, packs, report, specialists, student, teachers, unified
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec, Training

EFFICIENCY = 0.35
"""Part of the measured speed that training small networks reaches."""
START = {
    "data": 1.0,
    "teachers": 8.0,
    "logits": 0.0,
    "student": 6.0,
    "specialists": 2.0,
    "evaluate": 2.0,
    "report": 0.0,
}
"""Seconds until a stage's first step, as seen on two cores: Ray's start and the imports of torch and DeepSpeed."""
STEP, STEP_OF_RANKS = 0.001, 0.007
"""Seconds of a step that are not arithmetic: alone, and with several ranks over gloo."""


@dataclass(frozen=True)
class Step:
    """One stage of the plan."""

    stage: str
    run: int
    """Pieces of work to do: members, blocks, ..."""
    reuse: int
    """Pieces that are there already."""
    unit: str
    seconds: float | None
    """Estimate; None where nothing is known yet."""


@dataclass(frozen=True)
class Plan:
    steps: list[Step]
    store_bytes: int | None
    """Bytes of the whole logit store."""

    def as_json(self) -> dict[str, Any]:
        return {"steps": [asdict(step) for step in self.steps], "store_bytes": self.store_bytes}


@dataclass(frozen=True)
class _Dataset:
    """What is known of the dataset before it is imported."""

    kind: str
    shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    validation: int
    shards: int


def make(run: Run, cores: int) -> Plan:
    """Plan a run; nothing is written and no Ray is started."""
    import torch

    from kdscale.training.deepspeed_config import merged_config

    recipe = run.recipe
    found = _imported(run) or _unimported(run)
    whole = (run.dataset / FILE).exists() and not data.missing(run)
    if found is None:
        known = ["data", "teachers", "logits", "student", *(["specialists"] if recipe.specialists.count else [])]
        return Plan([Step(stage, 1, 0, "stage", None) for stage in known], None)
    data.check_views(recipe, found.kind)
    jobs = len(student.jobs(run))
    jointly = len(recipe.joint.seeds) if recipe.joint.networks else 0
    blocks = recipe.teachers.count * found.shards * recipe.logits.views
    left = {
        "data": len(data.missing(run)),
        "teachers": len(teachers.missing(run)) if whole else recipe.teachers.count,
        "logits": len(logits.missing(run)) if whole else blocks,
        "student": len(student.missing(run)) if whole else jobs,
        "joint": sum(name.startswith(joint.KIND) for name in student.missing(run)) if whole else jointly,
        "specialists": len(specialists.missing(run)) if whole else specialists.total(run),
        "evaluate": len(evaluate.missing(run)) if whole else 1,
    }
    left["report"] = len(report.missing(run)) if not left["evaluate"] else 1
    merged_config(recipe.student, "cuda" if torch.cuda.is_available() else "cpu")
    speed = _speed()
    teacher, pupil = (
        _operations(spec, found) / speed for spec in (recipe.teachers.model, student.trained_model(recipe))
    )
    average = teacher * recipe.joint.networks
    passes = [teacher * recipe.teachers.count, pupil * (jobs - jointly), average * jointly]
    big = recipe.teachers.workers
    if recipe.teachers.grouped:
        merged_config(recipe.teachers, "cuda" if torch.cuda.is_available() else "cpu")
    at_once = max(1, cores // (recipe.teachers.cpus * big))
    ranks = recipe.student.workers
    groups = max(1, cores // (recipe.student.cpus * recipe.student.workers))
    seconds = {
        "data": left["data"] * (found.train + found.test + found.validation) / 5000,
        "teachers": _training(recipe.teachers, found, teacher / big, STEP if big == 1 else STEP_OF_RANKS)
        * _rounds(run, left["teachers"], at_once, whole),
        "logits": teacher * found.train * left["logits"] / max(1, found.shards) / at_once,
        "student": _training(recipe.student, found, pupil / ranks, STEP if ranks == 1 else STEP_OF_RANKS)
        * math.ceil((left["student"] - left["joint"]) / groups)
        + _training(recipe.teachers, found, average, STEP) * math.ceil(left["joint"] / at_once),
        "specialists": _specialists(run, found, pupil, left["specialists"], cores, groups)
        if left["specialists"]
        else 0.0,
        "evaluate": left["evaluate"] * sum(passes) * (found.test + found.validation) / at_once,
        "report": left["report"] * 2.0,
    }
    totals = {"data": (1, "import"), "teachers": (recipe.teachers.count, "members"), "logits": (blocks, "blocks")}
    totals |= {"student": (jobs, "students and controls")}
    if recipe.specialists.count:
        totals |= {"specialists": (specialists.total(run), "specialists")}
    totals |= {"evaluate": (1, "table"), "report": (1, "page")}
    steps = [
        Step(stage, left[stage], total - left[stage], unit, round(seconds[stage] + START[stage] * bool(left[stage]), 1))
        for stage, (total, unit) in totals.items()
    ]
    here = not (recipe.cluster.address or os.environ.get("RAY_ADDRESS"))  # else the cores of this machine say nothing
    follows = recipe.student.quorum is not None and left["teachers"]
    if here and follows and recipe.student.cpus * ranks + recipe.teachers.cpus * big > cores:
        raise student.no_room_beside(f"{cores} CPUs")
    row = logits.row_bytes(recipe, found.classes)
    logits.refuse_too_large(run, row * found.train * left["logits"] / max(1, found.shards))
    return Plan(steps, round(row * found.train * recipe.teachers.count * recipe.logits.views))


def _imported(run: Run) -> _Dataset | None:
    return _described(run.manifest) if (run.dataset / FILE).exists() else None


def _described(manifest: Manifest) -> _Dataset:
    return _Dataset(
        manifest.sample.kind,
        manifest.sample.shape,
        len(manifest.classes),
        manifest.samples("train"),
        manifest.samples("test"),
        manifest.samples("validation") if manifest.splits.get("validation") else 0,
        len(manifest.splits["train"]),
    )


def _unimported(run: Run) -> _Dataset | None:
    recipe = run.recipe.data
    if recipe.source == "shards":
        manifest = shards.ready(recipe)
        return None if manifest is None else _described(manifest)
    source = open_source(recipe.source, recipe.path, recipe.options, recipe.image_size)
    total = len(source.labels)
    named = source.splits
    test = int((named == "test").sum()) if named is not None else 0
    test = test or _part(recipe.test, total)
    validation = int((named == "validation").sum()) if named is not None else 0
    validation = validation or _part(recipe.validation, total - test)
    train = max(0, total - test - validation)
    return _Dataset(
        source.spec.kind,
        source.spec.shape,
        len(source.classes),
        train,
        test,
        validation,
        math.ceil(train / recipe.shard_size),
    )


def _rounds(run: Run, members: int, at_once: int, whole: bool) -> float:
    """How often the time of one member passes until all are trained.

    What packing gains is known once it was measured; before, members are taken to be trained alone.
    """
    kept = packs.recorded(run) if whole else None
    pack = run.recipe.teachers.pack
    size = 1 if run.recipe.teachers.grouped else int(kept["size"] if kept else 1 if pack == "auto" else pack)
    count = max(math.ceil(members / size), min(members, at_once) if pack == "auto" else 0)
    times = (kept or {}).get("milliseconds", {})
    gain = times["1"] * size / times[str(size)] if times else 1.0
    return math.ceil(count / at_once) * math.ceil(members / max(1, count)) / gain


def _part(share: float, total: int) -> int:
    return round(share * total) if share < 1 else int(share)


def _training(settings: Training, found: _Dataset, seconds_a_sample: float, seconds_a_step: float) -> float:
    samples = settings.epochs * found.train
    return samples * 3 * seconds_a_sample + samples / settings.batch_size * seconds_a_step


def _specialists(run: Run, found: _Dataset, pupil: float, left: int, cores: int, groups: int) -> float:
    """Seconds of the specialists that are left, and of the networks made of them."""
    recipe, asked = run.recipe, run.recipe.specialists
    own = min(1.0, asked.classes / found.classes) * found.train / asked.share
    samples = asked.epochs * own
    one = samples * 3 * pupil + samples / asked.batch_size * STEP
    each = min(left, asked.count * len(recipe.student.seeds))
    seconds = one * math.ceil(each / max(1, cores // asked.cpus))
    if asked.distil:
        seconds += _training(recipe.student, found, pupil, STEP) * math.ceil(len(recipe.student.seeds) / groups)
    if asked.mixture:
        settings = unified.derived(recipe, found.classes).student
        times = (1 + asked.count) * math.ceil(len(recipe.student.seeds) / groups)
        seconds += _training(settings, found, pupil, STEP) * times
    return seconds


def _operations(spec: ModelSpec, found: _Dataset) -> float:
    """Floating-point operations of one sample's forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kdscale.models import zoo

    model = zoo.build(spec, found.shape, found.classes, 0).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *found.shape))
    return float(counter.get_total_flops())


def _speed() -> float:
    """Operations a second that one core may be expected to reach in training."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.randn(128, 1024)
    b = torch.randn(1024, 1024)
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(threads)
    return EFFICIENCY * 2 * a.numel() * b.shape[1] / best

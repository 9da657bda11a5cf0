"""One rank of stage 4: what every process of a group does to train a student or a control."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdscale.data.columns import Columns
from kdscale.data.dataset import Dataset
from kdscale.data.shards import Decoded
from kdscale.ensemble import covers
from kdscale.ensemble.covers import Part
from kdscale.ensemble.live import Live
from kdscale.ensemble.targets import Targets
from kdscale.files import read_json, write_json
from kdscale.logits.commits import Listing
from kdscale.models import heads
from kdscale.pipeline import logits, student, teachers, unified, workers
from kdscale.pipeline.ranks import Assignment, Lessons, Stream, train_on_ranks
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking import status
from kdscale.tracking.status import stop_file
from kdscale.training import objectives, schedules
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.objectives.mixup import mixing


def train_student(
    folder: Path,
    recipe: Recipe,
    job: tuple[str, int],
    job_folder: Path,
    fingerprint: str,
    gpus: float,
) -> str:
    """On every rank of a group: train one student or control; the sha256 of its weights.

    Args:
        job: ("student", "control", "distilled" or "mixture", seed); the recipe is a mixture's own.
    """
    kind, seed = job
    run, settings = Run(folder, recipe), recipe.student
    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)

    def kept(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        if kind == "student" and settings.fold:
            return heads.folded(weights, settings.model, shape, classes, student.head_weights(recipe))
        return weights

    task = Assignment("student", job_folder, fingerprint, seed, ("student",), {"kind": kind}, kept)

    def learn(dataset: Dataset, device: torch.device, rank: int, steps: int) -> Lessons:
        pixels, views = workers.shared_pixels(run, device), recipe.logits.views

        def mixed(batches: Stream) -> Stream:
            return mixing(batches, settings.mixup, task.draws("mixup"), rank) if settings.mixup else batches

        if kind in ("control", unified.MIXTURE):
            plain = not (settings.label_smoothing or settings.mixup)
            objective = objectives.hard if plain else objectives.labelled(settings.label_smoothing)
            return Lessons(objective, pixels, lambda epoch: epoch % views, changed=mixed)
        targets = soft_targets(run, job_folder, rank) if kind == "student" else joint_targets(run, seed)

        def join(number: int, decoded: Decoded, view: int, epoch: int) -> Columns:
            return targets.shard(dataset.shards[number].name, decoded.keys, view, epoch)

        match = settings.match if kind == "student" else "mean_target"
        return Lessons(soft_objective(recipe, steps, match), pixels, lambda epoch: epoch % views, join, mixed)

    checkpoints = Checkpoints(job_folder / "checkpoints" / fingerprint[:12])
    trained = settings.model_copy(update={"model": student.trained_model(recipe, kind)})
    return train_on_ranks(run, trained, gpus, task, checkpoints, learn)


def soft_objective(recipe: Recipe, steps: int, match: str) -> objectives.Objective:
    """What a student minimises, as its recipe says; `match` is `student.match` or stands in its place."""
    settings = recipe.student
    first, last, course = settings.temperature, settings.temperature_end, settings.temperature_schedule

    def of_step(step: int) -> float:
        return schedules.temperature(step, steps, first, first if last is None else last, course)

    soft_weight, hard_weight = settings.weights
    temperature = first if course == "constant" else of_step
    rest = (temperature, hard_weight, soft_weight, settings.divergence, settings.label_smoothing)
    if match == "mimic_all":
        return objectives.mimic_all(student.head_weights(recipe), *rest)
    return objectives.distillation(*rest, each=match == "mean_loss")


def soft_targets(run: Run, job_folder: Path, rank: int) -> Targets:
    """What a student learns from: the cheapest cover of the ensemble, or members as they come in.

    Which of the two, and which cover, is decided when the job begins, and kept for its restarts: a cover's targets
    differ from the members' by the codec's rounding.
    """
    recipe, settings = run.recipe, run.recipe.student
    store = logits.open_store(run)
    name = store.name.removeprefix(f"{run.folder}/")  # a run directory may be moved
    path = job_folder / "reads.json"
    if rank == 0:
        if read_json(path) is not None and not _still_holds(run, job_folder, name):
            for folder in ("members", "checkpoints"):  # of members that were trained anew since, or another store
                shutil.rmtree(job_folder / folder, ignore_errors=True)
            path.unlink()
        if read_json(path) is None:
            there = store.listing()
            whole = _is_whole(run, there)
            parts = [dataclasses.asdict(part) for part in _cover(run, there)] if whole else []
            made = {"store": name, "live": not whole, "members": logits.ensemble(run), "parts": parts}
            write_json(path, made)
    dist.barrier()
    reads: dict[str, Any] = read_json(path) or {}
    weights = logits.weights(recipe)
    if not reads["live"]:
        cover = [Part(**part) for part in reads["parts"]]
        return Targets(
            store, _temperature(recipe), weights=weights, rule=recipe.fusion.rule, parts=cover, apart=_apart(recipe)
        )
    assert settings.quorum is not None, "the stage begins without all members only where the recipe says so"
    live = Live(
        store,
        [logits.member_name(seed) for seed in recipe.fused_seeds],
        lambda: logits.ensemble(run),
        job_folder / "members",
        settings.quorum,
        settings.epochs,
        settings.deadline,
        lambda: [status.read(teachers.member_folder(run, seed)).get("step") for seed in recipe.fused_seeds],
        stop_file(run.folder).exists,
    )
    return Targets(
        store, _temperature(recipe), weights=weights, rule=recipe.fusion.rule, live=live, apart=_apart(recipe)
    )


def joint_targets(run: Run, seed: int) -> Targets:
    """What generalist and specialists say together, from the store."""
    checksum = unified.checksum(run, seed)
    assert checksum is not None, "all specialists are trained by now"
    part = Part(unified.member_name(seed, checksum), checksum)
    return Targets(logits.open_store(run), _temperature(run.recipe), parts=[part])


def _temperature(recipe: Recipe) -> float | None:
    """T of the targets; None where it changes from step to step."""
    return recipe.student.temperature if recipe.student.temperature_schedule == "constant" else None


def _apart(recipe: Recipe) -> bool:
    """Whether each member is matched by itself."""
    return recipe.student.match != "mean_target"


def _still_holds(run: Run, job_folder: Path, store: str) -> bool:
    """Whether what a job reads is what it has read so far: the store, and the weights of every member."""
    reads: dict[str, Any] = read_json(job_folder / "reads.json") or {}
    read_so_far = [
        reads.get("members", {}),
        *(read_json(path) or {} for path in (job_folder / "members").rglob("*.json")),
    ]
    ensemble = logits.ensemble(run)
    return reads.get("store") == store and all(
        ensemble.get(name, checksum) == checksum for members in read_so_far for name, checksum in members.items()
    )


def _is_whole(run: Run, there: Listing) -> bool:
    """Whether every member has labelled every shard."""
    seeds = run.recipe.fused_seeds
    return not any(len(numbers) for seed, _, numbers in logits.left(run, there) if seed in seeds)


def _cover(run: Run, there: Listing) -> list[Part]:
    shards = [shard.name for shard in run.manifest.splits[logits.SPLIT]]
    views = range(run.recipe.logits.views)
    makers = there.members
    whole = [
        maker
        for name, maker in makers.items()
        if maker.fused
        and not _apart(run.recipe)
        and all(there.holds(shards, view, name, maker.checkpoint).all() for view in views)
    ]
    sizes = {name: there.totals(name)[2] / max(1, there.totals(name)[1]) for name in makers}
    return covers.cheapest(
        logits.ensemble(run),
        logits.weights(run.recipe),
        run.recipe.fusion.rule,
        _temperature(run.recipe),
        whole,
        sizes,
    )

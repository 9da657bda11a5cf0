"""A replica: the process that trains members, one or a pack, from their last checkpoints to committed weights.

Weights, data order, dropout and views follow each member's seed alone; the node, the neighbours and a crash on the
way change nothing.
"""

import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from kdscale.data.batches import Batches, PackedBatches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.data.subset import select
from kdscale.ensemble import packing
from kdscale.errors import NotFinite, RunFailure, Stopped, UserError, in_a_line
from kdscale.files import locked, remove_temporaries
from kdscale.models import zoo
from kdscale.recipe import Recipe
from kdscale.seeds import derive
from kdscale.tracking.job import tracker
from kdscale.tracking.status import Status
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.done import finished
from kdscale.training.engine import Engine, use_device
from kdscale.training.finished import commit_weights
from kdscale.training.fit import Job, Plan, fit


@dataclass(frozen=True)
class Member:
    """A member that is to be trained."""

    seed: int
    folder: Path
    fingerprint: str
    ranks: int = 0
    """Of the DeepSpeed group that trains it; 0 for a process of its own or a pack."""
    stage: str = "teachers"

    @property
    def run(self) -> Path:
        """The run directory: folders of members are two levels below it."""
        return self.folder.parents[1]

    @property
    def checkpoints(self) -> Checkpoints:
        name = self.fingerprint[:12] + ("-ranks" if self.ranks else "")
        return Checkpoints(self.folder / "checkpoints" / name)


class Failed(RunFailure):
    """Why a member has no weights, in one sentence."""

    traceback: str = ""
    final: bool = False
    """Another start would end in the same way."""

    @classmethod
    def by(cls, error: BaseException) -> "Failed":
        made = cls(in_a_line(error))
        made.traceback = "".join(traceback.format_exception(error))
        made.final = isinstance(error, NotFinite)
        return made


class PutBack:
    """A member that is saved and goes on in a smaller pack."""


Result = str | Failed | PutBack
"""The sha256 of a member's weights, or why it has none."""
DIVIDE = ".divide"
"""In the folder of a pack's first member: asks the pack to end, so that it may go on as several."""


def train_members(
    members: Sequence[Member], stop: Path, recipe: Recipe, dataset_folder: Path, gpus: float
) -> dict[int, Result]:
    """Train members, several as a pack, each in its folder; what became of each, by seed.

    What a model raises is a result like any other: it is that of all that took their steps together, and others go on.

    Members that were left at different steps, by a kill or because they were trained otherwise before, go on in packs of those
    that were left at the same. Once the file `stop` is there, the states are saved and the replica ends; the file `DIVIDE` in
    the first member's folder does the same and leaves those that are not finished `PutBack`.

    Raises:
        Stopped: asked to stop; the states are saved.
        UserError: the dataset cannot be read, which would stop every member.
    """
    results: dict[int, Result] = {}
    with ExitStack() as locks:
        for member in members:
            locks.enter_context(locked(member.folder / ".lock"))
            if (done := finished(member.folder, member.fingerprint)) is not None:
                shutil.rmtree(member.folder / "checkpoints", ignore_errors=True)
                results[member.seed] = done
            else:
                remove_temporaries(member.folder)
        divide = members[0].folder / DIVIDE
        divide.unlink(missing_ok=True)
        if left := [member for member in members if member.seed not in results]:
            for member in left:
                member.checkpoints.mend()  # those that go on together must go on from the same step
            dataset = Dataset(dataset_folder, "train")
            for pack in packs(left, len(left)):
                try:
                    results |= _train(pack, lambda: stop.exists() or divide.exists(), recipe, dataset, gpus)
                except Stopped:
                    if stop.exists():
                        raise
                    break
        divide.unlink(missing_ok=True)
    return {member.seed: results.get(member.seed) or PutBack() for member in members}


def packs(members: Sequence[Member], most: int, least: int = 1) -> list[list[Member]]:
    """Members in packs of at most `most`, as even as can be; only such as have the same steps behind them go together.

    Args:
        least: number of packs, at least, where there are as many members.
    """
    made: list[list[Member]] = []
    ordered = sorted(members, key=lambda member: member.checkpoints.step)
    for _, same in groupby(ordered, key=lambda member: member.checkpoints.step):
        group = list(same)
        count = max(-(-len(group) // most), min(len(group), -(-least * len(group) // len(members))))
        made += [group[i * len(group) // count : (i + 1) * len(group) // count] for i in range(count)]
    return made


def _train(
    pack: Sequence[Member], should_stop: Callable[[], bool], recipe: Recipe, dataset: Dataset, gpus: float
) -> dict[int, Result]:
    """Train members that have the same number of steps behind them."""
    teachers = recipe.teachers
    device = use_device(teachers.cpus, gpus)
    jobs = [_job(member, recipe, len(pack)) for member in pack]
    try:
        engine = _engine(pack, recipe, dataset, device)
    except Exception as error:
        return _all_failed(pack, jobs, error)
    parts = [select(dataset, teachers.share, teachers.classes, member.seed) for member in pack]
    orders = [
        Order(
            part.sizes if part else dataset.sizes,
            derive(member.seed, "order"),
            teachers.batch_size,
            recipe.data.lanes,
            recipe.data.window,
        )
        for member, part in zip(pack, parts, strict=True)
    ]
    pixels = [
        Pixels(dataset.manifest, recipe.data.normalize, teachers.views, derive(member.seed, "views"), device)
        for member in pack
    ]
    batches = [
        Batches(dataset, order, seen, lambda epoch: epoch + 1, range(order.lanes), subset=part)
        for order, seen, part in zip(orders, pixels, parts, strict=True)
    ]
    plan = Plan(orders[0].steps(teachers.epochs), orders[0].samples / teachers.batch_size, teachers)
    for job in jobs:
        job.status.update(state="running", steps=plan.steps)
    try:
        fit(
            engine,
            batches[0] if len(pack) == 1 else PackedBatches(batches),
            objectives.hard,
            plan,
            jobs,
            should_stop,
        )
    except Stopped:
        raise
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, packing.NotPackable):
            raise
        return _all_failed(pack, jobs, error)
    results: dict[int, Result] = {}
    for member, job, model in zip(pack, jobs, engine.models, strict=True):
        if job.failure is not None:
            results[member.seed] = Failed.by(job.failure)
            continue
        results[member.seed] = commit_weights(
            member.folder, model.weights(), member.fingerprint, seed=member.seed, pack=len(pack)
        )
        shutil.rmtree(member.folder / "checkpoints", ignore_errors=True)
        job.status.update(state="done", step=plan.steps)
    return results


def _engine(pack: Sequence[Member], recipe: Recipe, dataset: Dataset, device: torch.device) -> Engine:
    teachers, shape = recipe.teachers, dataset.manifest.sample.shape
    models = [zoo.build(teachers.model, shape, dataset.classes, derive(member.seed, "weights")) for member in pack]
    return packing.engine(models, device, teachers)


def _all_failed(pack: Sequence[Member], jobs: Sequence[Job], error: Exception) -> dict[int, Result]:
    """All that took their steps together have failed by what one of them, or the stack, has raised."""
    results: dict[int, Result] = {}
    for member, job in zip(pack, jobs, strict=True):
        failed = Failed.by(job.failure or error)
        job.status.update(state="failed", error=str(failed))
        results[member.seed] = failed
    return results


def _job(member: Member, recipe: Recipe, pack: int) -> Job:
    from kdscale.cluster import whereabouts

    seed = member.seed
    status = Status(
        member.folder, stage=member.stage, job=member.folder.name, seed=seed, pack=pack, active=True, **whereabouts()
    )
    status.update(state="running")

    facts = {"seed": seed, "pack": pack}
    record = tracker(member.run, recipe, member.folder, member.stage, member.folder.name, member.fingerprint, facts)
    return Job(derive(seed, "steps"), member.checkpoints, record, status)

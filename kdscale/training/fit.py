"""The fit loop: the only one. Teachers, students, controls and specialists differ in engine, batches and objective.

It trains one model, or several that an engine has packed: these take their steps together, and each has a seed,
checkpoints and a record of its own.

Everything random in a step is a function of (seed, step, rank), and so are the batches and the learning rate;
hence a job that is killed and resumed ends in the same weights as an undisturbed one.
"""

import math
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.errors import NotFinite, RunFailure, Stopped
from kdscale.recipe import Fitting
from kdscale.seeds import derive
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.engine import Engine
from kdscale.training.objectives import Losses, Objective
from kdscale.training.schedules import learning_rate

LOG_POINTS = 100
"""About as many rows of metrics as a job writes."""
MOST_BETWEEN = 50
"""Steps between two rows at most."""
LOOK_EVERY = 2.0
"""Seconds, about, between two looks for a stop request."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast."""

    steps: int
    steps_per_epoch: float
    settings: Fitting

    @property
    def log_every(self) -> int:
        return max(1, min(MOST_BETWEEN, self.steps // LOG_POINTS))

    @property
    def checkpoint_every(self) -> int:
        return max(1, round(self.settings.checkpoint_epochs * self.steps_per_epoch))


@dataclass
class Job:
    """One model's own part in a training."""

    seed: int
    """Of whatever is random in its steps."""
    checkpoints: Checkpoints
    tracker: Callable[[int], JobTracker]
    """Opens the record, given the step it resumes from; called on rank 0 alone."""
    status: Status
    failure: RunFailure | None = None
    """Why it was given up, where others that are packed with it went on."""


class Watch(Protocol):
    """Looks at a model from time to time while it is trained."""

    due: Container[int]
    """Numbers of steps after which to look."""

    def look(self, engine: Any, done: int) -> dict[str, float]:
        """What is seen, for the record; every rank calls it."""
        ...


def fit(
    engine: Engine,
    batches: Callable[[int], Batch],
    objective: Objective,
    plan: Plan,
    jobs: Sequence[Job],
    should_stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> None:
    """Train from the latest checkpoint to the end of the plan.

    Args:
        batches: this rank's share of the global batch of a step; it may raise Stopped instead of waiting for data.
        jobs: one for each of the engine's models, all with the same number of steps behind them. One whose loss is no longer
            finite is given up, says so in its `failure`, and leaves no further trace.
        should_stop: asked at every log point; any rank's yes saves a checkpoint and ends all.
        watch: looks at a single job's model before the checkpoint of the same step.

    Raises:
        Stopped: asked to stop; a checkpoint was saved.
        NotFinite: no job is left with a finite loss.
    """
    (start,) = {job.checkpoints.restore(model) for job, model in zip(jobs, engine.models, strict=True)}
    for job in jobs:
        job.status.update(state="running", resumed=start, step=start, steps=plan.steps)
    records = _Records(engine, jobs, plan, start)
    meter = Meter(engine)
    settings = plan.settings
    clock, look = time.monotonic(), start + 1
    try:
        for step in range(start, plan.steps):
            engine.seed([derive(job.seed, "step", step, engine.rank) for job in jobs])
            lr = learning_rate(step, plan.steps, settings.lr, settings.schedule, settings.warmup)
            try:
                batch = batches(step)
            except Stopped:  # while waiting for data
                if (
                    engine.world == 1 and step > start
                ):  # several ranks cannot meet for it: the others may be in this step
                    records.save(step)
                raise
            meter.add(engine.step(batch, objective, lr))
            done = step + 1
            if watch is not None and done in watch.due:
                records.note(done, watch.look(engine, done))
            save = done % plan.checkpoint_every == 0 and done < plan.steps
            row = save or done % plan.log_every == 0 or done == plan.steps
            if not (row or done == look):
                continue
            seconds = (time.monotonic() - clock) / (done - start)
            stop, seconds = meter.agree(should_stop(), seconds)
            look = done + max(1, min(plan.log_every, round(LOOK_EVERY / max(seconds, 1e-9))))
            if row:
                records.log(done, lr, meter.means(), seconds)
            else:
                records.report(done)
            if save or (stop and done < plan.steps):
                records.save(done, wait=stop)
            if stop and done < plan.steps:
                raise Stopped(f"saved after step {done}")
        records.settle()
    except BaseException as error:
        records.close(exit_code=1, stopped=isinstance(error, Stopped))
        raise
    records.close()


class _Records:
    """What the jobs of a training leave behind: rows, status and checkpoints, each job's in its own place."""

    def __init__(self, engine: Engine, jobs: Sequence[Job], plan: Plan, start: int):
        self.engine, self.jobs, self.plan = engine, jobs, plan
        self._open = {i: job.tracker(start) for i, job in enumerate(jobs)} if engine.rank == 0 else {}

    def log(self, done: int, lr: float, means: list[dict[str, float]], seconds: float) -> None:
        """Add a row to each job, and give up those whose loss is no longer finite.

        Raises:
            NotFinite: none is left.
        """
        epoch = done / self.plan.steps_per_epoch
        for i, values in enumerate(means):
            job = self.jobs[i]
            if job.failure is not None:
                continue
            if not math.isfinite(values["loss"]):
                self._give_up(i, values["loss"], done)
                continue
            if i in self._open:
                self._open[i].log(done, epoch=round(epoch, 6), lr=lr, **values)
            self.report(done, i, loss=values["loss"], rate=round(1 / max(seconds, 1e-9), 2))
        if not self._left():
            raise next(job.failure for job in self.jobs if job.failure is not None)

    def note(self, done: int, values: dict[str, float]) -> None:
        """Add a row of its own to the first job, which is the only one where somebody looks."""
        if 0 in self._open:
            self._open[0].log(done, epoch=round(done / self.plan.steps_per_epoch, 6), **values)

    def report(self, done: int, only: int | None = None, **fields: float) -> None:
        """Say how far the jobs are, or one of them."""
        epoch = round(done / self.plan.steps_per_epoch, 3)
        for i in self._left() if only is None else [only]:
            self.jobs[i].status.update(step=done, steps=self.plan.steps, epoch=epoch, **fields)

    def save(self, done: int, wait: bool = True) -> None:
        """`wait`: until the checkpoints are there; else they may be written while training goes on."""
        for i in self._left():
            self.jobs[i].checkpoints.save(self.engine.models[i], done, wait)

    def settle(self) -> None:
        """Wait for checkpoints that are still being written."""
        for job in self.jobs:
            job.checkpoints.settle()

    def close(self, exit_code: int = 0, stopped: bool = False) -> None:
        for i in self._left() if stopped else ():
            self.jobs[i].status.update(state="stopped")
        while self._open:
            self._open.popitem()[1].close(exit_code)

    def _left(self) -> list[int]:
        return [i for i, job in enumerate(self.jobs) if job.failure is None]

    def _give_up(self, i: int, loss: float, done: int) -> None:
        job = self.jobs[i]
        job.failure = NotFinite(
            f"the loss is {loss} after step {done} of {self.plan.steps}; lower the learning rate or look for bad samples"
        )
        job.status.update(state="failed", step=done, error=str(job.failure))
        if i in self._open:
            self._open.pop(i).close(exit_code=1)


class Meter:
    """Losses between two log points: summed where they are, averaged over steps and ranks when asked."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._sums: Losses = {}
        self._count = 0

    def add(self, losses: Losses) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach().clone()
        self._count += 1

    def means(self) -> list[dict[str, float]]:
        """The means since the last call over steps and ranks, of each model."""
        names = sorted(self._sums)
        values = torch.stack([self._sums[name].double().reshape(-1) / self._count for name in names])
        self._sums, self._count = {}, 0
        each = self._over_ranks(values.T.contiguous())
        return [dict(zip(names, model, strict=True)) for model in each]

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Whether any rank was asked to stop, and the mean of the ranks' seconds a step."""
        values = torch.tensor([float(stop), seconds], dtype=torch.float64, device=self.engine.device)
        ((stops, mean),) = self._over_ranks(values[None])
        return stops > 0, mean

    def _over_ranks(self, values: Tensor) -> list[list[float]]:
        if self.engine.world > 1:
            dist.all_reduce(values)
            values /= self.engine.world
        return [list(map(float, row)) for row in values.tolist()]

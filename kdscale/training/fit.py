"""The fit loop: the only one. Teachers, students, controls and specialists differ in engine, batches and objective.

Everything random in a step is a function of (seed, step, rank), and so are the batches and the learning rate;
hence a job that is killed and resumed ends in the same weights as an undisturbed one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.errors import RunFailure, Stopped
from kdscale.recipe import Training
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
    """How long, how fast, from which seed."""

    steps: int
    steps_per_epoch: float
    settings: Training
    seed: int

    @property
    def log_every(self) -> int:
        return max(1, min(MOST_BETWEEN, self.steps // LOG_POINTS))

    @property
    def checkpoint_every(self) -> int:
        return max(1, round(self.settings.checkpoint_epochs * self.steps_per_epoch))


def fit(
    engine: Engine,
    batches: Callable[[int], Batch],
    objective: Objective,
    plan: Plan,
    checkpoints: Checkpoints,
    tracker: Callable[[int], JobTracker],
    status: Status,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from the latest checkpoint to the end of the plan.

    Args:
        batches: this rank's share of the global batch of a step.
        tracker: opens the job's record, given the step it resumes from; called on rank 0 alone.
        should_stop: asked at every log point; any rank's yes saves a checkpoint and ends all.

    Raises:
        Stopped: asked to stop; a checkpoint was saved.
        RunFailure: the loss is no longer finite.
    """
    start = checkpoints.restore(engine)
    record = tracker(start) if engine.rank == 0 else None
    meter = Meter(engine)
    settings = plan.settings
    clock, look = time.monotonic(), start + 1
    try:
        for step in range(start, plan.steps):
            torch.manual_seed(derive(plan.seed, "step", step, engine.rank))
            lr = learning_rate(step, plan.steps, settings.lr, settings.schedule, settings.warmup)
            meter.add(engine.step(batches(step), objective, lr))
            done = step + 1
            save = done % plan.checkpoint_every == 0 and done < plan.steps
            row = save or done % plan.log_every == 0 or done == plan.steps
            if not (row or done == look):
                continue
            seconds = (time.monotonic() - clock) / (done - start)
            stop, seconds = meter.agree(should_stop(), seconds)
            look = done + max(1, min(plan.log_every, round(LOOK_EVERY / max(seconds, 1e-9))))
            if not row:
                if stop:
                    checkpoints.save(engine, done)
                    raise Stopped(f"saved after step {done}")
                status.update(step=done, steps=plan.steps, epoch=round(done / plan.steps_per_epoch, 3))
                continue
            means = meter.means()
            if not math.isfinite(means["loss"]):
                raise RunFailure(
                    f"the loss is {means['loss']} after step {done} of {plan.steps} (seed {plan.seed}); "
                    "lower the learning rate or look for bad samples"
                )
            epoch = done / plan.steps_per_epoch
            if record is not None:
                record.log(done, epoch=round(epoch, 6), lr=lr, **means)
            rate = round(1 / max(seconds, 1e-9), 2)
            status.update(step=done, steps=plan.steps, epoch=round(epoch, 3), loss=means["loss"], rate=rate)
            if save or (stop and done < plan.steps):
                checkpoints.save(engine, done)
            if stop and done < plan.steps:
                raise Stopped(f"saved after step {done}")
    except BaseException:
        if record is not None:
            record.close(exit_code=1)
        raise
    if record is not None:
        record.close()


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

    def means(self) -> dict[str, float]:
        """The means since the last call, over steps and ranks."""
        names = sorted(self._sums)
        values = torch.stack([self._sums[name].double() / self._count for name in names])
        self._sums, self._count = {}, 0
        return dict(zip(names, self._over_ranks(values), strict=True))

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Whether any rank was asked to stop, and the mean of the ranks' seconds a step."""
        values = torch.tensor([float(stop), seconds], dtype=torch.float64, device=self.engine.device)
        stops, mean = self._over_ranks(values)
        return stops > 0, mean

    def _over_ranks(self, values: Tensor) -> list[float]:
        if self.engine.world > 1:
            dist.all_reduce(values)
            values /= self.engine.world
        return list(map(float, values.tolist()))

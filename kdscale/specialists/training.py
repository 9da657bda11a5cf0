"""Training one specialist: the generalist's weights, its own draws, and the fit loop of all others.

A specialist's weights follow its seed, its classes, the generalist and the settings alone, so specialists train in any order,
on any node, with no word between them; one that is killed goes on from its last checkpoint and ends in the same bits.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdscale.data.batches import Batch, Pixels, Raw
from kdscale.data.dataset import Dataset
from kdscale.models.specialist import specialised
from kdscale.recipe import Specialists
from kdscale.seeds import derive
from kdscale.specialists import objective
from kdscale.specialists.draws import Draws
from kdscale.specialists.dustbin import shift
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.done import finished
from kdscale.training.engine import TorchEngine
from kdscale.training.finished import Predictor, commit_weights
from kdscale.training.fit import Job, Plan, fit


@dataclass(frozen=True)
class Specialist:
    """A specialist that is to be trained."""

    number: int
    own: Sequence[int]
    """Its classes, in the order of its outputs."""
    seed: int
    folder: Path
    fingerprint: str


class SpecialistBatches:
    """A specialist's batches, a function of the step; with the generalist's (B, C) log-probabilities where it is given.

    Samples lie anywhere in the split. Of one that is not kept decoded, each is read from its place in the tar, a step ahead.
    """

    def __init__(self, dataset: Dataset, draws: Draws, pixels: Pixels, generalist: Predictor | None = None):
        self.dataset, self.draws, self.pixels, self.generalist = dataset, draws, pixels, generalist
        self._ends = np.cumsum(dataset.sizes)
        self._reader: ThreadPoolExecutor | None = None if dataset.keep else ThreadPoolExecutor(1, "reader")
        self._ahead: tuple[int, Future[Raw]] | None = None

    def __call__(self, step: int) -> Batch:
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0] == step
        raw, ids, labels, turns = ahead[1].result() if ahead is not None and known else self._read(step)
        if self._reader is not None:
            self._ahead = step + 1, self._reader.submit(self._read, step + 1)
        x = self.pixels(raw, ids, turns)
        targets = {}
        if self.generalist is not None:
            with torch.no_grad():
                targets["generalist"] = self.generalist(x).float().log_softmax(1)
        return Batch(x, torch.from_numpy(labels).to(x.device), targets, step)

    def _read(self, step: int) -> Raw:
        places = self.draws.batch(step)
        shards = np.searchsorted(self._ends, places, side="right")
        rows = places - (self._ends - np.asarray(self.dataset.sizes))[shards]
        order = np.argsort(shards, kind="stable")
        parts = [self.dataset.rows(int(number), rows[shards == number]) for number in np.unique(shards)]
        raw, ids, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "ids", "y"))
        return raw, ids, labels, self.draws.turns(step)[order] + 1


def train(
    one: Specialist,
    generalist: nn.Module,
    dataset: Dataset,
    settings: Specialists,
    device: torch.device,
    report: Status,
    tracker: Callable[[int], JobTracker],
    normalize: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train a specialist from its last checkpoint to committed weights; their sha256.

    `done.json` in its folder keeps what inference needs beside the weights: its classes and the dustbin's shift.

    Raises:
        Stopped: asked to stop; a checkpoint was saved.
        NotFinite: the loss is no longer finite.
        UserError: the class set leaves nothing to draw, or the generalist does not end in a fully connected layer.
    """
    if (done := finished(one.folder, one.fingerprint)) is not None:
        return done
    own = list(one.own)
    draws = Draws(dataset.all_labels(), own, settings.batch_size, derive(one.seed, "draws"), settings.share)
    pixels = Pixels(dataset.manifest, normalize, settings.views, derive(one.seed, "views"), device)
    engine = TorchEngine(
        specialised(generalist, dataset.manifest.sample.shape, own, settings.dustbin),
        device,
        weight_decay=settings.weight_decay,
    )
    teach = objective.soft_rest if settings.soft_rest else objective.hard
    checkpoints = Checkpoints(one.folder / "checkpoints" / one.fingerprint[:12])
    job = Job(derive(one.seed, "steps"), checkpoints, tracker, report)
    fit(
        engine,
        SpecialistBatches(dataset, draws, pixels, Predictor(generalist, device) if settings.soft_rest else None),
        teach(own, dataset.classes),
        Plan(draws.steps(settings.epochs), draws.steps_per_epoch, settings),
        [job],
        should_stop,
    )
    checksum = commit_weights(
        one.folder,
        engine.weights(),
        one.fingerprint,
        own=own,
        seed=one.seed,
        shift=shift(draws.prior, draws.sampled, settings.shift),
    )
    shutil.rmtree(one.folder / "checkpoints", ignore_errors=True)
    job.status.update(state="done")
    return checksum

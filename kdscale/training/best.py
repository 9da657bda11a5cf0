"""The best weights of a training: looked for on the validation split once an epoch, and kept beside the checkpoints.

A look is a function of the weights alone, and comes before the checkpoint of the same step, so a job that is killed and
resumed finds the same best. Fewer errors are better, then a lower negative log-likelihood.
"""

import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.files import read_json, sha256, write_json, written_aside
from kdscale.training.deepspeed_engine import DeepSpeedEngine

BEST = "best.json"
BATCH = 256
"""Samples of a rank's forward pass."""


class Best:
    """What a student is to end with, in a folder of its own; each rank looks at its share of the validation split."""

    def __init__(self, folder: Path, dataset: Dataset, pixels: Pixels, steps_per_epoch: float, steps: int):
        self.folder, self.dataset, self.pixels = folder, dataset, pixels
        epochs = range(1, math.ceil(steps / steps_per_epoch) + 1)
        self.due: Container[int] = {min(steps, math.ceil(epoch * steps_per_epoch)) for epoch in epochs}
        """Steps after which to look: the end of each epoch, and of the training."""
        self._best: dict[str, Any] | None = read_json(folder / BEST)

    def look(self, engine: DeepSpeedEngine, done: int) -> dict[str, float]:
        """Measure the weights after `done` steps and keep them if there were none better; every rank calls it."""
        seen = self.measure(engine)
        found = {"step": done, **seen}
        if self._best is None or _rank(found) < _rank(self._best):
            weights = engine.weights()
            if engine.rank == 0:
                self._keep(weights, found)
            self._best = found
        return {"validation_accuracy": 1 - seen["errors"] / seen["n"], "validation_nll": seen["nll"]}

    @torch.no_grad()
    def measure(self, engine: DeepSpeedEngine) -> dict[str, Any]:
        """Errors and mean negative log-likelihood of the whole split, on every rank.

        ZeRO's third stage gathers weights in each forward pass, so all ranks do the same number of them.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
        engine.engine.eval()
        for x, y, real in self._share(engine.rank, engine.world):
            logits = engine.logits(x)[:real].float()
            labels = y[:real].to(logits.device)
            sums[0] += (logits.argmax(1) != labels).sum()
            sums[1] += F.cross_entropy(logits, labels, reduction="sum")
        engine.engine.train()
        if engine.world > 1:
            dist.all_reduce(sums)
        n = sum(self.dataset.sizes)
        return {"errors": int(sums[0]), "nll": float(sums[1]) / n, "n": n}

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The best weights, and what was seen of them."""
        best = read_json(self.folder / BEST)
        assert best is not None, "the last step is looked at"
        path = self.folder / _name(best["step"])
        assert sha256(path) == best["sha256"], f"{path} was changed"
        return load_file(path), {name: best[name] for name in ("step", "errors", "nll", "n")}

    def _keep(self, weights: dict[str, Tensor], found: dict[str, Any]) -> None:
        path = self.folder / _name(found["step"])
        with written_aside(path) as temporary:
            save_file(weights, temporary)
        write_json(self.folder / BEST, {**found, "sha256": sha256(path)})
        for old in self.folder.glob("*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)

    def _share(self, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Batches of this rank's samples, and how many of each are real: the last are filled up with the first sample."""
        sizes = self.dataset.sizes
        places = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
        passes = math.ceil(math.ceil(len(places) / world) / BATCH)
        own = places[rank::world]
        for number in range(passes):
            part = own[number * BATCH : (number + 1) * BATCH]
            filled = part + [places[0]] * (min(BATCH, math.ceil(len(places) / world)) - len(part))
            raw = [(self.dataset.decoded(shard), row) for shard, row in filled]
            ids = np.array([decoded.ids[row] for decoded, row in raw], np.uint64)
            y = torch.tensor([int(decoded.y[row]) for decoded, row in raw])
            x = np.stack([decoded.x[row] for decoded, row in raw])
            yield self.pixels(x, ids, np.zeros(len(raw), np.int64)), y, len(part)


def _rank(found: dict[str, Any]) -> tuple[int, float, int]:
    """Sorts what was seen, the best first; the earlier of equals."""
    return found["errors"], found["nll"], found["step"]


def _name(step: int) -> str:
    return f"best-{step:09d}.safetensors"

"""What a worker process keeps between tasks: decoded shards and loaded models."""

import functools
from pathlib import Path

import torch

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec
from kdscale.training.finished import Predictor, load_predictor


def dataset(run: Run, split: str) -> Dataset:
    """A split of the run's dataset, its decoded shards kept for the next task."""
    return _dataset(run.dataset, split, run.manifest.fingerprint)


def predictor(folder: Path, checksum: str, model: ModelSpec, manifest: Manifest, device: torch.device) -> Predictor:
    """A finished model, kept for the next task."""
    return load_predictor(
        folder, checksum, model.model_dump_json(), manifest.sample.shape, len(manifest.classes), device
    )


def shared_pixels(run: Run, device: torch.device) -> Pixels:
    """What labelling members and learning students both see: views keyed by the run's seed."""
    data = run.recipe.data
    return Pixels(run.manifest, data.normalize, data.views, run.recipe.seed, device)


@functools.lru_cache(maxsize=3)
def _dataset(folder: Path, split: str, fingerprint: str) -> Dataset:
    opened = Dataset(folder, split)
    assert opened.manifest.fingerprint == fingerprint
    return opened

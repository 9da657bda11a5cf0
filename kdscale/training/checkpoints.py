"""Checkpoints of a job: a folder a step, and one small file, replaced in one act, that names the latest whole one.

A kill leaves either the old latest or the new one; a folder that is not named is debris and is removed.
"""

import shutil
from pathlib import Path

import torch.distributed as dist

from kdscale.files import read_json, write_json
from kdscale.training.engine import Trained

LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one job, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def step(self) -> int:
        """The number of steps behind the latest checkpoint; 0 if there is none."""
        return int((read_json(self.folder / LATEST) or {"step": 0})["step"])

    def restore(self, model: Trained) -> int:
        """Load the latest checkpoint, if any; the number of steps that it has behind it."""
        latest = read_json(self.folder / LATEST)
        if latest is None:
            return 0
        model.load(self.folder / latest["folder"])
        return int(latest["step"])

    def save(self, model: Trained, step: int) -> None:
        """Save after `step` steps; returns when the checkpoint is the latest. Every rank calls it."""
        name = f"step-{step:09d}"
        if model.rank == 0:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        _meet(model)
        model.save(self.folder / name)
        _meet(model)
        if model.rank == 0:
            write_json(self.folder / LATEST, {"step": step, "folder": name})
            for old in self.folder.iterdir():
                if old.is_dir() and old.name != name:
                    shutil.rmtree(old, ignore_errors=True)


def _meet(model: Trained) -> None:
    if model.world > 1:
        dist.barrier()

"""Checkpoints of a job: a folder a step, and one small file, replaced in one act, that names the latest whole one.

A kill leaves either the old latest or the new one; a folder that is not named is debris and is removed.
"""

import shutil
from pathlib import Path

import torch.distributed as dist

from kdscale.files import read_json, write_json
from kdscale.training.engine import Engine

LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one job, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def restore(self, engine: Engine) -> int:
        """Load the latest checkpoint, if any; the number of steps that it has behind it."""
        latest = read_json(self.folder / LATEST)
        if latest is None:
            return 0
        engine.load(self.folder / latest["folder"])
        return int(latest["step"])

    def save(self, engine: Engine, step: int) -> None:
        """Save after `step` steps; returns when the checkpoint is the latest. Every rank calls it."""
        name = f"step-{step:09d}"
        if engine.rank == 0:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        _meet(engine)
        engine.save(self.folder / name)
        _meet(engine)
        if engine.rank == 0:
            write_json(self.folder / LATEST, {"step": step, "folder": name})
            for old in self.folder.iterdir():
                if old.is_dir() and old.name != name:
                    shutil.rmtree(old, ignore_errors=True)


def _meet(engine: Engine) -> None:
    if engine.world > 1:
        dist.barrier()

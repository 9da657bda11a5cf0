"""Checkpoints of a job: a folder a step, and one small file, replaced in one act, that names the latest whole one.

A kill leaves either the old latest or the new one; a folder that is not named is debris and is removed. The small file
also has the checksum of every file, which is looked at before anything is read.

Where a model can copy its state (`Snapshots`), files are written in the background while training goes on. Ranks do not
meet for it: each leaves the checksums of what it wrote beside it, and rank 0 commits once all are there.
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import xxhash

from kdscale.errors import RunFailure, UserError
from kdscale.files import read_json, write_json
from kdscale.training.engine import Trained
from kdscale.training.sharded import Writer

LATEST = "latest.json"
PATIENCE = 600.0
"""Seconds that rank 0 waits for what other ranks write."""


@runtime_checkable
class Snapshots(Protocol):
    """A model whose state can be copied now and written later."""

    def snapshot(self) -> Writer: ...


class Checkpoints:
    """The checkpoints of one job, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def step(self) -> int:
        """The number of steps behind the latest checkpoint; 0 if there is none."""
        return int((read_json(self.folder / LATEST) or {"step": 0})["step"])

    def restore(self, model: Trained) -> int:
        """Load the latest checkpoint, if any; the number of steps that it has behind it. Every rank calls it.

        Raises:
            UserError: a file of it is missing or was changed.
        """
        latest = read_json(self.folder / LATEST)
        if latest is None:
            return 0
        folder = self.folder / latest["folder"]
        self._verify(model, folder, latest.get("files", {}))
        model.load(folder)
        return int(latest["step"])

    def save(self, model: Trained, step: int, wait: bool = True) -> None:
        """Save after `step` steps; every rank calls it.

        Args:
            wait: return when the checkpoint is the latest; else as soon as the state is copied, where it can be.

        Raises:
            OSError: it, or the one before it, could not be written.
        """
        self.settle()
        name = f"step-{step:09d}"
        if model.rank == 0:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        _meet(model)
        write = model.snapshot() if isinstance(model, Snapshots) else _writer(model)
        if wait or not isinstance(model, Snapshots):
            self._write(write, model.rank, model.world, step, name)
            _meet(model)
            return

        def in_the_background() -> None:
            try:
                self._write(write, model.rank, model.world, step, name)
            except BaseException as error:
                self._error = error

        self._writing = threading.Thread(target=in_the_background, name="checkpoint", daemon=True)
        self._writing.start()

    def settle(self) -> None:
        """Wait for what is still being written; raises what became of it."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, write: Writer, rank: int, world: int, step: int, name: str) -> None:
        folder = self.folder / name
        sums = {path.name: [path.stat().st_size, checksum(path)] for path in write(folder)}
        if rank:
            write_json(folder / _sums(rank), sums)
            return
        for other in range(1, world):
            sums |= _wait_for(folder / _sums(other))
        write_json(self.folder / LATEST, {"step": step, "folder": name, "files": sums})
        for old in self.folder.iterdir():
            if old.is_dir() and old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def _verify(self, model: Trained, folder: Path, files: dict[str, list[Any]]) -> None:
        """Each rank looks at some of the files; all learn of a bad one."""
        bad = [
            number
            for number, (name, (size, expected)) in enumerate(sorted(files.items()))
            if number % model.world == model.rank and not _is_whole(folder / name, size, expected)
        ]
        worst = torch.tensor(bad[0] if bad else -1)
        if model.world > 1:
            if dist.get_backend() == "nccl":
                worst = worst.cuda()
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        if int(worst) >= 0:
            raise UserError(
                f"{folder / sorted(files)[int(worst)]}: the checkpoint's file is missing or was changed since it was written; "
                f"restore it, or remove {self.folder} to train this job anew"
            )


def checksum(path: Path) -> str:
    """xxh3 of a file, which is also brought to the disk."""
    hashing = xxhash.xxh3_128()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        while block := file.read(1 << 22):
            hashing.update(block)
    return hashing.hexdigest()


def _is_whole(path: Path, size: int, expected: str) -> bool:
    return path.is_file() and path.stat().st_size == size and checksum(path) == expected


def _writer(model: Trained) -> Writer:
    def write(folder: Path) -> Sequence[Path]:
        model.save(folder)
        return sorted(path for path in folder.iterdir() if path.is_file())

    return write


def _sums(rank: int) -> str:
    return f"rank-{rank:05d}.sums.json"


def _wait_for(path: Path) -> dict[str, list[Any]]:
    deadline = time.monotonic() + PATIENCE
    while (sums := read_json(path)) is None:
        if time.monotonic() > deadline:
            raise RunFailure(f"{path}: a rank did not write its part of the checkpoint within {PATIENCE:.0f} s")
        time.sleep(0.01)
    found: dict[str, list[Any]] = sums
    return found


def _meet(model: Trained) -> None:
    if model.world > 1:
        dist.barrier()

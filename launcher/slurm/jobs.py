"""The jobs of a run: their folders RUN/jobs/slurm-ID, what state they are in, and their logs.

slurm-12.log           what the job printed, over all its starts
slurm-12/log           a link to it
slurm-12/run.sbatch    the script, and recipe.yaml as it was submitted
slurm-12/ray-0.log     what Ray's step printed at the first start
slurm-12/ray-0/NODE/   Ray's own logs, where that start failed
slurm-12/times         when each start came how far
slurm-12/ended         the exit code, once it is final
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kdscale.errors import UserError
from kdscale.pipeline.run import JOBS
from launcher.slurm import controller

PREFIX = "slurm-"


@dataclass(frozen=True)
class Job:
    """One job, by its folder."""

    id: str
    folder: Path

    @property
    def log(self) -> Path:
        link = self.folder / "log"
        return link if link.is_symlink() else self.folder.with_name(f"{self.folder.name}.log")

    @property
    def exit_code(self) -> int | None:
        """Of a job that has come to its end; None as long as it may go on, or if it was killed."""
        try:
            return int((self.folder / "ended").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def starts(self) -> int:
        try:
            return sum(line.endswith(" begun") for line in (self.folder / "times").read_text().splitlines())
        except FileNotFoundError:
            return 0


def jobs(run: Path) -> list[Job]:
    """The jobs of a run, the newest last."""
    found = [Job(path.name.removeprefix(PREFIX), path) for path in (run / JOBS).glob(f"{PREFIX}*") if path.is_dir()]
    return sorted((job for job in found if job.id.isdigit()), key=lambda job: int(job.id))


def one(run: Path, wanted: str | None) -> Job:
    """The job of that id, or the newest.

    Raises:
        UserError: there is none.
    """
    known = jobs(run)
    found = [job for job in known if wanted in (None, job.id)]
    if found:
        return found[-1]
    if wanted is None or not known:
        raise UserError(f"{run}: no job has worked on this run; submit one with kdscale submit slurm RECIPE")
    raise UserError(f"{run}: has no job {wanted}; its jobs are {', '.join(job.id for job in known)}")


def keep(run: Path, job: str, script: Path, recipe: Path) -> Job:
    """Make the folder of a job that was just submitted. The job itself may have done so by now."""
    folder = run / JOBS / f"{PREFIX}{job}"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "log"
    if not link.is_symlink():
        with contextlib.suppress(FileExistsError):
            link.symlink_to(f"../{PREFIX}{job}.log")
    shutil.copyfile(script, folder / script.name)
    shutil.copyfile(recipe, folder / "recipe.yaml")
    return Job(job, folder)


def states(run: Path) -> list[dict[str, Any]]:
    """Every job of a run as it stands, for `kdscale status`."""
    known = jobs(run)
    seen = controller.look(job.id for job in known)
    return [_state(job, seen.get(job.id)) for job in known]


def _state(job: Job, seen: controller.Seen | None) -> dict[str, Any]:
    code = job.exit_code
    state = seen.state if seen else ("unknown" if code is None else "COMPLETED" if code == 0 else "FAILED")
    return {
        "job": job.id,
        "state": state,
        "live": bool(seen and seen.live),
        "nodes": seen.nodes if seen else "",
        "elapsed": seen.elapsed if seen else None,
        "limit": seen.limit if seen else None,
        "reason": seen.reason if seen and seen.reason != "None" else None,
        "starts": job.starts,
        "exit_code": code,
        "log": str(job.log),
    }


def line(state: dict[str, Any]) -> str:
    """A job's state in a line."""
    parts = []
    if state["nodes"]:
        parts.append(f"on {state['nodes']}")
    if state["elapsed"] and state["state"] == "RUNNING":
        parts.append(f"{state['elapsed']} of {state['limit']}")
    if state["reason"] and state["live"]:
        parts.append(state["reason"])
    if state["starts"] > 1:
        parts.append(f"{state['starts'] - 1} restart{'s' if state['starts'] > 2 else ''}")
    if state["exit_code"]:
        parts.append(f"exit code {state['exit_code']}, see {state['log']}")
    return f"  job {state['job']:<14}{state['state'].lower():<10} {', '.join(parts)}".rstrip()


def end(run: Path, wanted: str | None, now: bool) -> list[str]:
    """End the jobs of a run, or one: save first unless `now`; what was done, in sentences.

    Raises:
        UserError: none of them is there to be ended.
        RunFailure: Slurm refuses.
    """
    known = [one(run, wanted)] if wanted else jobs(run) or [one(run, None)]
    seen = controller.look(job.id for job in known)
    said = []
    for job in known:
        state = seen.get(job.id)
        if state is None or not state.live:
            continue
        if now or state.state != "RUNNING":
            controller.kill(job.id)
            said.append(f"job {job.id}: cancelled")
        else:
            controller.save_and_end(job.id)
            said.append(f"job {job.id}: saves what is under way and ends; --now does not wait for that")
    if not said:
        raise UserError(f"{run}: none of its jobs ({', '.join(job.id for job in known)}) waits or runs")
    return said


def show(job: Job, follow: bool, out: TextIO = sys.stdout, pause: Callable[[float], None] = time.sleep) -> None:
    """Print a job's log; following, go on until the job has come to its end, over requeues."""
    place, told = 0, ""
    while True:
        seen = controller.look([job.id]).get(job.id) if follow else None  # before reading: what follows is the rest
        place = _copy(job.log, place, out)
        if seen is None or not seen.live:
            break
        if seen.state not in (told, "RUNNING"):
            why = f" ({seen.reason})" if seen.reason != "None" else ""
            print(f"job {job.id} is {seen.state.lower()}{why}", file=sys.stderr)
        told = seen.state
        pause(1.0)
    if not place:
        print(f"job {job.id} has printed nothing yet", file=sys.stderr)


def _copy(log: Path, place: int, out: TextIO) -> int:
    """Print a file from a place on; where it ended."""
    try:
        with open(log, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(place if place <= size else 0)
            text = file.read()
            out.write(text.decode("utf-8", "replace"))
            out.flush()
            return file.tell()
    except FileNotFoundError:
        return place

"""The jobs of a run on Ray clusters: their folders RUN/jobs/ray-ID, what state they are in, and their logs.

ray-ID/job.json      the cluster's address, the job's id, where its token lies, when it was submitted
ray-ID/recipe.yaml   the recipe as it was submitted
ray-ID/log           what the job printed, once it has ended and was looked at
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kdscale.errors import RunFailure, UserError
from kdscale.files import read_json, write_json, write_text
from kdscale.pipeline.run import JOBS
from launcher.ray_job import client
from launcher.ray_job.client import Place, Seen

PREFIX = "ray-"
FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """One job, by its folder."""

    id: str
    folder: Path

    @property
    def kept(self) -> dict[str, Any]:
        return read_json(self.folder / FILE) or {}

    @property
    def place(self) -> Place:
        token = self.kept.get("token")
        return Place(self.kept["address"], Path(token) if token else None)

    @property
    def submitted(self) -> float:
        return float(self.kept.get("submitted", 0.0))

    @property
    def log(self) -> Path:
        return self.folder / "log"


def jobs(run: Path) -> list[Job]:
    """The jobs of a run, the newest last."""
    found = [Job(path.parent.name.removeprefix(PREFIX), path.parent) for path in (run / JOBS).glob(f"{PREFIX}*/{FILE}")]
    return sorted(found, key=lambda job: (job.submitted, job.id))


def keep(run: Path, job: str, place: Place, recipe: Path, about: dict[str, Any]) -> Job:
    """Make the folder of a job that is about to be submitted."""
    folder = run / JOBS / f"{PREFIX}{job}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe, folder / "recipe.yaml")
    token = str(place.token.absolute()) if place.token else None
    write_json(folder / FILE, {"job": job, "address": place.address, "token": token, "submitted": time.time(), **about})
    return Job(job, folder)


def forget(job: Job) -> None:
    """Remove the folder of a job that was not taken."""
    shutil.rmtree(job.folder)


def look(job: Job) -> Seen | None:
    """How a job stands; what Ray has said once of one that ended is kept, as clusters do not last."""
    ended = job.kept.get("ended")
    if ended is not None:
        return Seen(**ended)
    seen = client.look(job.place, job.id)
    if seen is not None and not seen.live:
        try:
            write_text(job.log, client.logs(job.place, job.id))
        except (UserError, RunFailure):
            return seen
        write_json(job.folder / FILE, {**job.kept, "ended": vars(seen)})
    return seen


def states(run: Path) -> list[dict[str, Any]]:
    """Every job of a run as it stands, for `kdscale status`."""
    return [_state(job, look(job)) for job in jobs(run)]


def _state(job: Job, seen: Seen | None) -> dict[str, Any]:
    return {
        "job": job.id,
        "state": seen.state if seen else "unknown",
        "live": bool(seen and seen.live),
        "address": job.kept["address"],
        "message": seen.message if seen else "",
        "started": seen.started if seen else None,
        "ended": seen.ended if seen else None,
        "log": str(job.log) if job.log.exists() else None,
    }


def line(state: dict[str, Any]) -> str:
    """A job's state in a line."""
    parts = [f"at {state['address']}"]
    if state["state"] == "unknown":
        parts.append("which does not know it, or does not answer")
    if state["started"]:
        parts.append(f"{(state['ended'] or time.time()) - state['started']:.0f} s")
    if state["state"] == "FAILED":
        parts.append(f"see {state['log']}" if state["log"] else state["message"].splitlines()[0])
    return f"  job {state['job']:<14}{state['state'].lower():<10} {', '.join(parts)}".rstrip()


def end(job: Job, now: bool) -> str | None:
    """End a job: it saves first; what was done, or None if it had ended."""
    seen = look(job)
    if seen is None or not seen.live:
        return None
    if now:
        raise UserError("--now: Ray asks a job to end and waits; leave --now out, or end the cluster")
    client.stop(job.place, job.id)
    return f"job {job.id}: saves what is under way and ends"


def show(job: Job, follow: bool, out: TextIO = sys.stdout) -> None:
    """Print a job's log; following, go on until it has come to its end, and say how that was if it was not well."""
    seen = look(job)
    if seen is None:
        raise RunFailure(f"job {job.id}: the Ray at {job.kept['address']} does not know it, or does not answer")
    if job.log.exists():
        out.write(job.log.read_text(encoding="utf-8"))
    elif not follow:
        out.write(client.logs(job.place, job.id))
    else:
        client.follow(job.place, job.id, out)
        while (seen := look(job)) is not None and seen.live:
            time.sleep(0.2)
    out.flush()
    if follow and seen is not None and seen.state != "SUCCEEDED":
        print(f"job {job.id} is {seen.state.lower()}", file=sys.stderr)

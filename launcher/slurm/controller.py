"""Slurm's commands, and what they say turned into sentences."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdscale.errors import RunFailure, UserError

LIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "RESV_DEL_HOLD"),
}
"""States of a job that will run, runs, or still cleans up."""
_UNREACHABLE = ("unable to contact", "connection refused", "connection timed out", "socket timed out")
_NO_CLUSTER = ("could not establish a configuration source", "unable to process configuration file", "slurm.conf")
_FIELDS = "%i|%T|%N|%M|%l|%r"


@dataclass(frozen=True)
class Seen:
    """A job as Slurm shows it."""

    job: str
    state: str
    nodes: str
    elapsed: str
    limit: str
    reason: str

    @property
    def live(self) -> bool:
        return self.state in LIVE


def has_slurm() -> bool:
    return shutil.which("squeue") is not None


def check_here() -> None:
    """Raises:
    UserError: jobs cannot be submitted from this machine.
    """
    if shutil.which("sbatch") is None:
        raise _absent("sbatch")


def submit(script: Path, arguments: Sequence[str] = ()) -> str:
    """Give a script to sbatch.

    Returns:
        The job's id.

    Raises:
        UserError: no sbatch here, or it refuses the script: what for.
        RunFailure: Slurm does not answer.
    """
    done = _call("sbatch", "--parsable", str(script), *arguments)
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout.strip().splitlines()[-1].split(";")[0]


def look(jobs: Iterable[str]) -> dict[str, Seen]:
    """What Slurm knows of jobs; those that it has forgotten are missing, all are where it cannot be asked."""
    asked = ",".join(jobs)
    if not asked or not has_slurm():
        return {}
    found = {}
    for line in _call(
        "squeue", "--noheader", "--states=all", f"--jobs={asked}", f"--format={_FIELDS}"
    ).stdout.splitlines():
        fields = line.split("|", 5)
        if len(fields) == 6:
            found[fields[0]] = Seen(*fields)
    return found


def save_and_end(job: str) -> None:
    """Ask a running job to save and end: no requeue, and then the signal that it gets before its time limit."""
    _done(_call("scontrol", "update", f"JobId={job}", "Requeue=0"), job)
    _done(_call("scancel", "--batch", "--signal=USR1", job), job)


def kill(job: str) -> None:
    _done(_call("scancel", job), job)


def _done(done: subprocess.CompletedProcess[str], job: str) -> None:
    if done.returncode:
        raise RunFailure(f"job {job}: Slurm refuses ({_first(done.stderr)})")


def _call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise _absent(command) from None


def _absent(command: str) -> UserError:
    return UserError(
        f"there is no {command} on the PATH; give this command on a login node of the cluster, or see the script with "
        "kdscale submit slurm RECIPE --dry-run"
    )


def _refused(said: str) -> UserError | RunFailure:
    low = said.lower()
    if any(sign in low for sign in _NO_CLUSTER):
        return UserError(
            f"this machine belongs to no Slurm cluster ({_first(said)}); submit on a login node, or see the script with --dry-run"
        )
    if any(sign in low for sign in _UNREACHABLE):
        return RunFailure(f"Slurm's controller does not answer ({_first(said)}); try again, or ask its administrators")
    if "partition" in low and (partitions := _partitions()):
        return UserError(f"sbatch refuses the job: {_first(said)}; --partition takes {', '.join(partitions)}")
    return UserError(f"sbatch refuses the job: {_first(said)}; change the option and submit again")


def _first(said: str) -> str:
    """The first thing that a command of Slurm's complains of, and the reason that it gives at the end."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Try ")] or ["it does not say why"]
    reason = lines[-1].removeprefix("Batch job submission failed: ")
    return lines[0] if reason in lines[0] or len(lines) == 1 else f"{lines[0]} ({reason})"


def _partitions() -> list[str]:
    return _call("sinfo", "--noheader", "--format=%R").stdout.split()

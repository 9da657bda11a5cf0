"""Sends what was logged offline, once: `kdscale wandb sync RUN`, on a machine that reaches the server.

Each start of a job leaves a log, JOB/wandb/offline-run-*/run-ID.wandb. `wandb sync` sends the logs of one id in the order
of their times, as one run, and marks each; a log with the mark is not sent again. Of a job that is at work nothing is
sent, since its log is not whole. What online runs could not deliver is sent from metrics.jsonl (`publishing`).
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kdscale import files
from kdscale.errors import RunFailure
from kdscale.recipe import WandB
from kdscale.tracking.identity import FOLDER
from kdscale.tracking.wandb import ASIDE

LOCK = ".sync.lock"
MARK = ".synced"
AT_ONCE = 100
"""Logs for one call of `wandb sync`."""


@dataclass(frozen=True)
class Log:
    """What one start of a job has logged offline."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.stem.removeprefix("run-").removesuffix(ASIDE)

    @property
    def aside(self) -> bool:
        """Whether its own id is not that of the run it belongs to."""
        return self.path.stem.endswith(ASIDE)

    @property
    def job(self) -> Path:
        return self.path.parents[2]

    @property
    def sent(self) -> bool:
        return self.path.with_name(self.path.name + MARK).exists()


def logs(run: Path) -> list[Log]:
    """The logs of a run, in the order in which they were begun; those of earlier recipes as well."""
    found = [Log(path) for path in run.rglob("wandb/offline-run-*/run-*.wandb")]
    return sorted(found, key=lambda log: (log.path.parent.name, str(log.path)))


def sync(run: Path, settings: WandB, driver: Path) -> tuple[int, int]:
    """Send the logs of a run that were not sent; how many were, and how many belong to jobs that are at work.

    Args:
        driver: the file that the command which works on the run has locked.

    Raises:
        RunFailure: the server does not take them, or another process does this.
    """
    with files.locked(run / FOLDER / LOCK, wait=5):
        left = [log for log in logs(run) if not log.sent]
        busy = {job for job in {log.job for log in left} if _at_work(job, run, driver)}
        ready = [log for log in left if log.job not in busy]
        together = [log for log in ready if not log.aside]
        for start in range(0, len(together), AT_ONCE):
            _send(together[start : start + AT_ONCE], settings)
        for one in sorted({log.id for log in ready if log.aside}):
            _send([log for log in ready if log.aside and log.id == one], settings, "--id", one)
        return len(ready), len(left) - len(ready)


def _send(sent: list[Log], settings: WandB, *options: str) -> None:
    """Raises:
    RunFailure: not all of them were taken.
    """
    command = [
        sys.executable,
        "-m",
        "wandb",
        "sync",
        "--yes",
        *options,
        *(str(log.path.parent.absolute()) for log in sent),
    ]
    base_url = {"WANDB_BASE_URL": settings.base_url} if settings.base_url else {}
    with tempfile.TemporaryDirectory(prefix="kdscale-wandb-") as aside:  # it leaves a log of its own where it runs
        environment = {**os.environ, **base_url, "WANDB_MODE": "online", "WANDB_DIR": aside}
        done = subprocess.run(
            command, env=environment, cwd=aside, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    kept = [log for log in sent if not log.sent]
    if kept:
        said = [line.removeprefix("wandb: ").strip() for line in (done.stderr + done.stdout).splitlines()]
        why = next((line for line in reversed(said) if line and "Syncing" not in line), "it does not say why")
        raise RunFailure(
            f"W&B does not take {len(kept)} of {len(sent)} logs, the first of them {kept[0].job} ({why}); "
            "they are kept, set WANDB_API_KEY and WANDB_BASE_URL and give the same command again"
        )


def _at_work(job: Path, run: Path, driver: Path) -> bool:
    """Whether a process still writes to a job's logs: it holds the job's lock, or the run's where the job has none."""
    for lock in (job / ".lock", driver if job.is_relative_to(run / FOLDER) else job / ".lock"):
        try:
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False

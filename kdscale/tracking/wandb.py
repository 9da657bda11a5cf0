"""Weights & Biases: one run per job, from rank 0, that can neither stop nor slow the job it shows.

The training loop logs to the object that `open_run` returns and asks nothing: with mode off it is an `Off`, which
does nothing, and the wandb package is not even imported. A job keeps its W&B run through crashes and requeues: the
run's id follows from the run's fingerprint and the job's name, and a watermark in the job's directory says what has
been logged, because a resumed job replays the steps since its checkpoint and W&B would keep both rows.

No trouble with W&B is trouble of the job. If the server does not answer, the run is kept offline and one line on
stderr says how to send it later; whatever W&B raises after that ends the logging to W&B, and metrics.jsonl goes on.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from kdscale import files
from kdscale.recipe import WandB
from kdscale.tracking import names
from kdscale.tracking.identity import Identity

WATERMARK = "wandb.json"
_WIDTH = 255
INIT_TIMEOUT = 10
FINISH_TIMEOUT = 5
"""Seconds that a server may keep a job waiting, at its start and at its end."""
DOWN_FOR = 600
"""Seconds for which a process does not ask a server again that has refused it."""
ASIDE = "-offline"
"""Ends the id of a run that wandb-core has begun online and given up."""
_DOWN: dict[str | None, tuple[float, str]] = {}
"""Until when a server is not asked again, by its address, and why."""


class Off:
    """A W&B run that is none."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Add a row of history; rows that an earlier attempt of the job has logged are left out."""

    def summary(self, values: dict[str, Any]) -> None:
        """Set values in the run's summary."""

    def close(self, exit_code: int = 0) -> None:
        """Finish the run; call it before the process ends, in Ray actors above all: ray.kill loses what is open."""


class Run(Off):
    """A W&B run, online or offline."""

    def __init__(self, run: Any, job: str, watermark: "Watermark") -> None:
        self._run = run
        self._job = job
        self._watermark = watermark

    def log(self, step: int, values: dict[str, Any]) -> None:
        if self._run is None or self._watermark.repeats(step):
            return
        try:
            self._watermark.advance(step)  # first, as a row must not be there twice and metrics.jsonl has all of them
            self._run.log({names.STEP: step, **values})
        except Exception as error:
            self._give_up(error)

    def summary(self, values: dict[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.summary.update(values)
        except Exception as error:
            self._give_up(error)

    def close(self, exit_code: int = 0) -> None:
        if self._run is None:
            return
        run, self._run = self._run, None
        self._watermark.close()
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            warn(
                f"W&B has not taken all rows of {self._job} within {FINISH_TIMEOUT} s; "
                "they are kept, send them later with: kdscale wandb sync RUN"
            )
        except Exception as error:
            warn(f"W&B could not finish the run of {self._job} ({first_line(error)}); metrics.jsonl has its rows")

    def _give_up(self, error: Exception) -> None:
        self._run = None
        warn(f"logging {self._job} to W&B ended ({first_line(error)}); metrics.jsonl goes on")


class Watermark:
    """How far a job's W&B run has been logged, kept in a file so that a restarted job knows.

    A mark is the last step and the number of its rows: a step may have several, one of training and one of
    validation, and a replay brings them in the same order. There is one mark for rows kept offline, which are still
    to be sent, and one for rows handed to a server, which a SIGKILL may have lost on the way: an online run goes by
    what the server has (`reached`) and by the first, an offline run by both.

    It is written in place and not flushed to the disk, so that a row costs microseconds: a kill leaves it whole.
    """

    def __init__(self, path: Path, run_id: str, offline: bool) -> None:
        self._path = path
        self._mode = "offline" if offline else "online"
        self._file: int | None = None
        self._saved: dict[str, Any] = {"id": run_id, "online": [-1, 0], "offline": [-1, 0]}
        try:
            saved = files.read_json(path) or {}
            if saved["id"] == run_id:
                self._saved |= {mode: [int(saved[mode][0]), int(saved[mode][1])] for mode in ("online", "offline")}
        except (TypeError, KeyError, IndexError, ValueError):
            pass  # no watermark, or one that a lost node left damaged
        self._step: int = self._saved["offline"][0]
        self._rows: int = self._saved["offline"][1]
        if offline:
            self.reached(*self._saved["online"])

    def reached(self, step: int, rows: int = sys.maxsize) -> None:
        """Rows up to the given one are known to be logged."""
        self._step, self._rows = max((self._step, self._rows), (step, rows))

    def repeats(self, step: int) -> bool:
        """Whether the next row, of `step`, has been logged before; counts down the rows of the mark's own step."""
        if step != self._step or self._rows == 0:
            return step < self._step
        self._rows -= 1
        return True

    def advance(self, step: int) -> None:
        """The next row, of `step`, is about to be logged."""
        last, rows = self._saved[self._mode]
        self._saved[self._mode] = [step, rows + 1 if step == last else 1]
        if self._file is None:
            self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY)
        os.pwrite(self._file, json.dumps(self._saved).ljust(_WIDTH).encode() + b"\n", 0)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_run(settings: WandB, run_dir: Path, who: Callable[[], Identity]) -> Off:
    """Start, or take up again, the W&B run of a job.

    Args:
        settings: the recipe's tracking.wandb.
        run_dir: where the W&B log (``wandb/``) and the watermark (``wandb.json``) are kept.
        who: what W&B is told of the job; asked for only where W&B is on.
    """
    if settings.mode == "off":
        return Off()
    try:
        job = who()
        run_dir.mkdir(parents=True, exist_ok=True)
        run = start(settings, run_dir, job)
        watermark = Watermark(run_dir / WATERMARK, job.id, offline=run.offline)
        if run.resumed and isinstance(step := run.summary.get(names.STEP), int):
            watermark.reached(step)
        return Run(run, job.name, watermark)
    except Exception as error:
        warn(f"W&B does not start ({first_line(error)}); {run_dir.name} is in metrics.jsonl alone")
        return Off()


def start(settings: WandB, run_dir: Path, job: Identity) -> Any:
    """The wandb run of a job in the mode that the recipe asks for; offline where online fails."""
    if settings.mode == "offline":
        return _init(settings, "offline", run_dir, job)
    try:
        return start_online(settings, run_dir, job)
    except Exception as error:
        refused = isinstance(error, Refused)
        aside = job if refused else replace(job, id=f"{job.id}{ASIDE}")
        run = _init(settings, "offline", run_dir, aside)
        warn(
            f"W&B server {run.settings.base_url} {error if refused else _why(error)}; "
            f"{job.name} is logged offline, send it later with: kdscale wandb sync RUN"
        )
        return run


class Refused(Exception):
    """Why a server is not asked for a run: it does not answer, or takes no key."""


def start_online(settings: WandB, run_dir: Path, job: Identity) -> Any:
    """The run of a job on the server.

    Raises:
        Refused: the server cannot be used; nothing was begun.
        Exception: whatever wandb raises when it begins a run.
    """
    import wandb

    until, why = _DOWN.get(settings.base_url, (0.0, ""))
    if time.monotonic() < until:  # a pack's members need not each find out
        raise Refused(why)
    _set_up(settings, "online")
    try:
        # Verified first: once `wandb.init` has failed, wandb-core holds the run's id until the process ends. And no
        # prompt: at a terminal it would ask for a key, and wait.
        if wandb.run is None and not wandb.login(prompt=False, verify=True):
            raise ValueError("no API key, set WANDB_API_KEY or use `wandb login`")
    except Exception as error:
        why = _why(error)
        _DOWN[settings.base_url] = time.monotonic() + DOWN_FOR, why
        raise Refused(why) from error
    return _init(settings, "online", run_dir, job)


def _set_up(settings: WandB, mode: str) -> None:
    import wandb

    base_url = {"base_url": settings.base_url} if settings.base_url else {}
    wandb.setup(wandb.Settings(silent=True, quiet=True, mode=mode, **base_url))


def _init(settings: WandB, mode: Literal["online", "offline"], run_dir: Path, job: Identity) -> Any:
    import wandb

    _set_up(settings, settings.mode)
    own = wandb.Settings(
        silent=True,
        quiet=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT,
        finish_timeout=FINISH_TIMEOUT,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=1,  # the default of 15 s would lose that much to a SIGKILL
        **({"base_url": settings.base_url} if settings.base_url else {}),
    )
    run = wandb.init(
        mode=mode,
        id=job.id,
        resume="allow",
        reinit="create_new",
        project=settings.project,
        entity=settings.entity,
        group=job.group,
        job_type=job.kind,
        name=job.name,
        tags=list(job.tags),
        config=job.config,
        dir=str(run_dir),
        settings=own,
    )
    for step, of in names.STEPS.items():
        run.define_metric(step)
        run.define_metric(of, step_metric=step)
    return run


def _why(error: Exception) -> str:
    silent = "did not respond in time" in str(error)  # wandb blames its own process where the server keeps silent
    return "does not answer" if silent else f"cannot be used ({first_line(error)})"


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def warn(sentence: str) -> None:
    print(f"kdscale: {sentence}", file=sys.stderr, flush=True)

"""Weights & Biases: one run per job, from rank 0, that can neither stop nor slow the job it shows.

The training loop logs to the object that `open_run` returns and asks nothing: with mode off it is an `Off`, which
does nothing, and the wandb package is not even imported. A job keeps its W&B run through crashes and requeues: the
run's id follows from the run's fingerprint and the job's name, and a watermark in the job's directory says what has
been logged, because a resumed job replays the steps since its checkpoint and W&B would keep both rows.

No trouble with W&B is trouble of the job. If the server does not answer, the run is kept offline and one line on
stderr says how to send it later; whatever W&B raises after that ends the logging to W&B, and metrics.jsonl goes on.
"""

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdscale import files
from kdscale.recipe import WandB

STEP = "train/step"
"""The x-axis of every plot: W&B's own step counts rows and differs after a resume."""
WATERMARK = "wandb.json"
INIT_TIMEOUT = 10
FINISH_TIMEOUT = 5
"""Seconds that a server may keep a job waiting, at its start and at its end."""


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
            self._run.log({STEP: step, **values})
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
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            _warn(
                f"W&B has not taken all rows of {self._job} within {FINISH_TIMEOUT} s; "
                f"they are kept, send them later with: {_sync_command(run, run.id)}"
            )
        except Exception as error:
            _warn(f"W&B could not finish the run of {self._job} ({_first_line(error)}); metrics.jsonl has its rows")

    def _give_up(self, error: Exception) -> None:
        self._run = None
        _warn(f"logging {self._job} to W&B ended ({_first_line(error)}); metrics.jsonl goes on")


class Watermark:
    """How far a job's W&B run has been logged, kept in a file so that a restarted job knows.

    A mark is the last step and the number of its rows: a step may have several, one of training and one of
    validation, and a replay brings them in the same order. There is one mark for rows kept offline, which are still
    to be sent, and one for rows handed to a server, which a SIGKILL may have lost on the way: an online run goes by
    what the server has (`reached`) and by the first, an offline run by both.
    """

    def __init__(self, path: Path, run_id: str, offline: bool) -> None:
        self._path = path
        self._mode = "offline" if offline else "online"
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
        files.write_json(self._path, self._saved)


def open_run(
    settings: WandB,
    run_dir: Path,
    *,
    group: str,
    group_id: str,
    job_type: str,
    job: str,
    config: dict[str, Any],
) -> Off:
    """Start, or take up again, the W&B run of a job.

    Args:
        settings: the recipe's tracking.wandb.
        run_dir: where the W&B log (``wandb/``) and the watermark (``wandb.json``) are kept.
        group: name of the experiment; W&B shows its jobs together.
        group_id: fingerprint of the experiment; with `job` it makes the run's id.
        job_type: the stage.
        job: name of the job within the experiment, such as ``teacher-3``.
        config: what W&B shows as the run's configuration.
    """
    if settings.mode == "off":
        return Off()
    run_id = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', job)}-{files.digest([group_id, job])[:12]}"
    options: dict[str, Any] = {
        "id": run_id,
        "resume": "allow",
        "reinit": "create_new",
        "project": settings.project,
        "entity": settings.entity,
        "group": group,
        "job_type": job_type,
        "name": job,
        "tags": settings.tags,
        "config": config,
        "dir": str(run_dir),
    }
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        run = _start(settings, job, options)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        watermark = Watermark(run_dir / WATERMARK, run_id, offline=run.offline)
        if run.resumed and isinstance(step := run.summary.get(STEP), int):
            watermark.reached(step)
        return Run(run, job, watermark)
    except Exception as error:
        _warn(f"W&B does not start ({_first_line(error)}); {job} is in metrics.jsonl alone")
        return Off()


def log_results(settings: WandB, run_dir: Path, group: str, group_id: str, results: dict[str, Any]) -> None:
    """Show the numbers of results.json as the job ``evaluate``: in the summary, and as one row of history.

    The names are the paths to the numbers, ``student/runs/seed-0/accuracy``; see `scalars`.
    """
    values = dict(scalars(results))
    run = open_run(settings, run_dir, group=group, group_id=group_id, job_type="evaluate", job="evaluate", config={})
    run.log(0, values)
    run.summary(values)
    run.close()


def scalars(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a tree of mappings, each with its path.

    A list of mappings names its items by their seed, else by their place; lists of numbers (bins, curves, matrices)
    are pictures of the report and no scalars.
    """
    prefix = f"{path}/" if path else ""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from scalars(value, f"{prefix}{key}")
    elif isinstance(tree, list | tuple):
        for place, item in enumerate(tree):
            if isinstance(item, dict):
                yield from scalars(item, f"{prefix}seed-{item['seed']}" if "seed" in item else f"{prefix}{place}")
    elif isinstance(tree, int | float) and not isinstance(tree, bool) and math.isfinite(tree):
        yield path, tree


def _start(settings: WandB, job: str, options: dict[str, Any]) -> Any:
    """The wandb run in the mode that the recipe asks for; offline where online fails."""
    import wandb

    base_url = {"base_url": settings.base_url} if settings.base_url else {}
    wandb.setup(wandb.Settings(silent=True, quiet=True, mode=settings.mode, **base_url))
    options["settings"] = wandb.Settings(
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
        **base_url,
    )
    if settings.mode == "offline":
        return wandb.init(mode="offline", **options)
    served = False
    try:
        # Verified first: once `wandb.init` has failed, wandb-core holds the run's id until the process ends. And no
        # prompt: at a terminal it would ask for a key, and wait.
        if wandb.run is None and not wandb.login(prompt=False, verify=True):
            raise ValueError("no API key, set WANDB_API_KEY or use `wandb login`")
        served = True
        return wandb.init(mode="online", **options)
    except Exception as error:
        run_id = options["id"]
        if served:
            options["id"] = f"{run_id}-offline"
        run = wandb.init(mode="offline", **options)
        _warn(
            f"W&B server {run.settings.base_url} {_refusal(error)}; "
            f"{job} is logged offline, send it later with: {_sync_command(run, run_id)}"
        )
        return run


def _refusal(error: Exception) -> str:
    silent = "did not respond in time" in str(error)  # wandb blames its own process where the server keeps silent
    return "does not answer" if silent else f"cannot be used ({_first_line(error)})"


def _sync_command(run: Any, run_id: str) -> str:
    """What sends a run's log; an offline one carries the run's id in the file, unless that was taken."""
    return f"WANDB_BASE_URL={run.settings.base_url} wandb sync --include-online --id {run_id} {Path(run.dir).parent}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _warn(sentence: str) -> None:
    print(f"kdscale: {sentence}", file=sys.stderr, flush=True)

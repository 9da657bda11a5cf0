"""The one object that a job logs to: metrics.jsonl always, W&B where the recipe asks for it.

Made by rank 0 of every job that trains (members, students, controls, specialists), from the step of the checkpoint
that it resumes; and by the driver for what the run as a whole has to show.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdscale.recipe import Recipe, WandB
from kdscale.tracking import names
from kdscale.tracking.identity import Identity, identity, kind_of
from kdscale.tracking.metrics import MetricsLog, read
from kdscale.tracking.wandb import open_run

METRICS = "metrics.jsonl"


class JobTracker:
    """Logs a job's rows to JOB_DIR/metrics.jsonl and to its W&B run.

    Args:
        job_dir: the job's own directory; metrics.jsonl, wandb.json and wandb/ are kept there.
        stage: teachers, student, ...
        job: name of the job within the run, such as ``seed-3``.
        resume_step: the last step that the job's checkpoint holds; 0 if it starts from nothing.
        wandb: the recipe's tracking.wandb.
        who: what W&B is told of the job; asked for only where W&B is on.
    """

    def __init__(
        self, job_dir: Path, stage: str, job: str, resume_step: int, wandb: WandB, who: Callable[[], Identity]
    ) -> None:
        self._kind = kind_of(stage, job)
        self._metrics = MetricsLog(job_dir / METRICS, resume_step, stage=stage, job=job)
        self._wandb = open_run(wandb, job_dir, who)
        for step, values in rows(job_dir):  # rows that a kill lost on their way to W&B, or from before it was on
            self._wandb.log(step, values)

    def log(self, step: int, **values: Any) -> None:
        self._metrics.log(step, **values)
        self._wandb.log(step, named(self._kind, values))

    def summary(self, **values: Any) -> None:
        """Set values in the summary of the W&B run; metrics.jsonl has rows alone."""
        self._wandb.summary(named(self._kind, values))

    def close(self, exit_code: int = 0) -> None:
        self._metrics.close()
        self._wandb.close(exit_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close with the exit code that the exception stands for: SystemExit's own (143 after SIGTERM), else 1."""
        if isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code
            self.close(code if isinstance(code, int) else 1)
        else:
            self.close(0 if error is None else 1)


def tracker(
    run: Path, recipe: Recipe, job_dir: Path, stage: str, job: str, fingerprint: str, facts: dict[str, Any]
) -> Callable[[int], JobTracker]:
    """What opens a job's record, given the step that it resumes from.

    Args:
        run: the run directory.
        fingerprint: of what the job makes.
        facts: what tells it from others of its kind, such as its seed.
    """

    def who() -> Identity:
        return identity(run, recipe, kind_of(stage, job), job, fingerprint, facts)

    return lambda step: JobTracker(job_dir, stage, job, step, recipe.tracking.wandb, who)


def rows(job_dir: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a job's metrics.jsonl as W&B gets them: (step, values by their names there)."""
    found = []
    for row in read(job_dir / METRICS):
        values = {key: value for key, value in row.items() if key not in ("stage", "job", "step") and value is not None}
        found.append((row["step"], named(kind_of(row["stage"], row["job"]), values)))
    return found


def named(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {names.of(kind, field): value for field, value in values.items()}

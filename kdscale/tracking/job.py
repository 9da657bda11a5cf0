"""The one object that a job logs to: metrics.jsonl always, W&B where the recipe asks for it.

Made by rank 0 of every job that trains (members, students, controls, specialists), from the step of the checkpoint
that it resumes.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdscale.recipe import WandB
from kdscale.tracking.metrics import MetricsLog, read
from kdscale.tracking.wandb import open_run

METRICS = "metrics.jsonl"


class JobTracker:
    """Logs a job's rows to JOB_DIR/metrics.jsonl and to its W&B run.

    Args:
        job_dir: the job's own directory; metrics.jsonl, wandb.json and wandb/ are kept there.
        stage: teachers, student, ...; the W&B job type.
        job: name of the job within the run, such as ``teacher-3``.
        resume_step: the last step that the job's checkpoint holds; 0 if it starts from nothing.
        wandb: the recipe's tracking.wandb.
        group: name of the run, the W&B group.
        group_id: fingerprint of the run; with `job` it names the W&B run.
        config: what W&B shows as the job's configuration.
    """

    def __init__(
        self,
        job_dir: Path,
        stage: str,
        job: str,
        resume_step: int,
        *,
        wandb: WandB,
        group: str,
        group_id: str,
        config: dict[str, Any],
    ) -> None:
        self._metrics = MetricsLog(job_dir / METRICS, resume_step, stage=stage, job=job)
        self._wandb = open_run(
            wandb,
            job_dir,
            group=group,
            group_id=group_id,
            job_type=stage,
            job=job,
            config=config,
        )
        for row in read(job_dir / METRICS):  # rows that a kill lost on their way to W&B, or from before it was on
            values = {key: value for key, value in row.items() if key not in ("stage", "job", "step")}
            self._wandb.log(row["step"], {key: value for key, value in values.items() if value is not None})

    def log(self, step: int, **values: Any) -> None:
        self._metrics.log(step, **values)
        self._wandb.log(step, values)

    def summary(self, **values: Any) -> None:
        """Set values in the summary of the W&B run; metrics.jsonl has rows alone."""
        self._wandb.summary(values)

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

"""Stage 4 on ranks that are there already: started by torchrun, deepspeed or srun instead of by Ray.

Every process calls `train`, with its process group up; they do the same jobs in the same order that Ray's groups do, by
the same function, into the same folders. Whatever comes before must be finished, since that is work for Ray.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist

from kdscale.errors import UserError
from kdscale.pipeline import joint, student
from kdscale.pipeline.run import Run
from kdscale.pipeline.stages import MODULES, STAGES, identity
from kdscale.pipeline.student_rank import train_student
from kdscale.tracking.status import stop_file


def gpus(run: Run) -> float:
    """What each rank trains on: its own GPU where there is any and the recipe does not say otherwise."""
    return float(run.recipe.student.gpus != 0 and torch.cuda.is_available())


def check(run: Run) -> None:
    """Refuse a run whose students have nothing to learn from yet.

    Raises:
        UserError: names the stage that is missing.
    """
    for stage in STAGES[: STAGES.index("student")]:
        if missing := MODULES[stage].missing(run):
            raise UserError(
                f"{run.folder}: the stage {stage} is not finished ({missing[0]} is missing); give kdscale logits RECIPE first"
            )


def train(run: Run, say: Callable[[str], None]) -> None:
    """On every rank: train the students and controls that are missing.

    Args:
        say: told on rank 0 how far it is.

    Raises:
        Stopped: a signal came; what was under way is saved.
    """
    first = dist.get_rank() == 0
    if first:
        stop_file(run.folder).unlink(missing_ok=True)
        for job in student.jobs(run):
            run.take_back(student.job_folder(run, job), student.fingerprint(run, job))
    dist.barrier()
    done = student.finished_jobs(run)
    todo = [job for job in student.jobs(run) if job not in done and job[0] != joint.KIND]
    dist.barrier()  # all have looked before anything changes
    for job in todo:
        fingerprint = student.fingerprint(run, job)
        folder = run.folder / student.job_folder(run, job)
        if first:
            run.claim(student.job_folder(run, job), fingerprint)
            say(f"{student.job_name(job)}: on {dist.get_world_size()} ranks")
        dist.barrier()
        if first:
            with run.accounts.timed("student", identity(run, "student")):
                train_student(run.folder, run.recipe, job, folder, fingerprint, gpus(run))
        else:
            train_student(run.folder, run.recipe, job, folder, fingerprint, gpus(run))
    if first:
        say(f"students: {len(done)} done before, {len(todo)} now")

"""The jobs of a run, whatever cluster they were given to: for `kdscale status`, `logs` and `cancel`."""

from pathlib import Path
from typing import Any

from kdscale.errors import UserError
from launcher.ray_job import jobs as on_ray
from launcher.slurm import jobs as on_slurm

Job = on_slurm.Job | on_ray.Job


def states(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Every job as it stands."""
    return {"slurm": on_slurm.states(run), "ray": on_ray.states(run)}


def lines(states: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [*map(on_slurm.line, states["slurm"]), *map(on_ray.line, states["ray"])]


def show(run: Path, wanted: str | None, follow: bool) -> None:
    """Print the log of a job, the newest if none is named."""
    job = _one(run, wanted)
    if isinstance(job, on_ray.Job):
        on_ray.show(job, follow)
    else:
        on_slurm.show(job, follow)


def end(run: Path, wanted: str | None, now: bool) -> list[str]:
    """End the jobs of a run, or one: what was done, in sentences.

    Raises:
        UserError: none of them is there to be ended.
    """
    _check_has_jobs(run)
    ray = [job for job in on_ray.jobs(run) if wanted in (None, job.id)]
    said = [line for job in ray if (line := on_ray.end(job, now)) is not None]
    if wanted is None and (said or (ray and not on_slurm.jobs(run))):
        if not said:
            raise UserError(f"{run}: none of its jobs ({', '.join(job.id for job in ray)}) waits or runs")
        return said
    if wanted is not None and ray:
        if not said:
            raise UserError(f"{run}: job {wanted} neither waits nor runs")
        return said
    return on_slurm.end(run, wanted, now)


def _one(run: Path, wanted: str | None) -> Job:
    """The job of that id, or the newest."""
    _check_has_jobs(run)
    ray, slurm = on_ray.jobs(run), on_slurm.jobs(run)
    if not ray or (wanted is not None and wanted in {job.id for job in slurm}):
        return on_slurm.one(run, wanted)
    if wanted is not None:
        found = [job for job in ray if job.id == wanted]
        if not found:
            known = ", ".join([*(job.id for job in slurm), *(job.id for job in ray)])
            raise UserError(f"{run}: has no job {wanted}; its jobs are {known}")
        return found[0]
    newest = max((job.folder.stat().st_ctime for job in slurm), default=0.0)
    return on_slurm.one(run, None) if newest > ray[-1].submitted else ray[-1]


def _check_has_jobs(run: Path) -> None:
    """Raises:
    UserError: no cluster has worked on the run, or this is none.
    """
    from kdscale.pipeline.run import load_recipe

    if on_ray.jobs(run) or on_slurm.jobs(run):
        return
    load_recipe(run)
    raise UserError(
        f"{run}: no job of a cluster has worked on this run; kdscale submit slurm or submit ray gives it one"
    )

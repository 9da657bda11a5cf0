"""What a run has done and is doing, from its files alone: for `kdscale status`, live or after the fact."""

import time
from pathlib import Path
from typing import Any

from kdscale.data.manifest import FILE
from kdscale.pipeline import data, evaluate, logits, report, specialists, student, teachers
from kdscale.pipeline.run import Run, has_driver, load_recipe
from kdscale.tracking import status
from kdscale.training.done import DONE

STALE = 30.0
"""Seconds without a sign of life after which a running job is called silent."""


def overview(folder: Path) -> dict[str, Any]:
    """Stages with their counts, and the jobs that have a status.

    Raises:
        UserError: the folder is not a run directory.
    """
    run = Run(folder, load_recipe(folder))
    imported = (run.dataset / FILE).exists() and not data.missing(run)
    jobs = [*_members(run), *_students(run), *_specialists(run)]
    return {
        "run": str(folder),
        "name": run.recipe.name,
        "stages": _stages(run) if imported else {"data": {"done": 0, "total": 1}},
        "seconds": run.accounts.seconds(),
        "jobs": jobs,
    }


def _stages(run: Run) -> dict[str, dict[str, int]]:
    totals = {
        "data": (data, 1),
        "teachers": (teachers, run.recipe.teachers.count),
        "logits": (
            logits,
            run.recipe.teachers.count * len(run.manifest.splits[logits.SPLIT]) * run.recipe.logits.views,
        ),
        "student": (student, len(student.jobs(run))),
        **({"specialists": (specialists, specialists.total(run))} if run.recipe.specialists.count else {}),
        "evaluate": (evaluate, 1),
        "report": (report, 1),
    }
    return {
        stage: {"done": total - len(module.missing(run)), "total": total} for stage, (module, total) in totals.items()
    }


def _members(run: Run) -> list[dict[str, Any]]:
    """Every member of the recipe, those that nothing has been heard of as queued."""
    driven = has_driver(run.folder)
    found = []
    for seed in run.recipe.teachers.seeds:
        folder = teachers.member_folder(run, seed)
        known = {"stage": "teachers", "job": folder.name, "seed": seed, "state": "queued", **status.read(folder)}
        job = _job(folder, known, driven)
        if (folder / status.ERROR).exists():
            job["traceback"] = str(folder / status.ERROR)
        found.append(job)
    return found


def _students(run: Run) -> list[dict[str, Any]]:
    driven = has_driver(run.folder)
    known = [(folder, status.read(folder)) for folder in sorted(run.folder.glob("students/*"))]
    return [_job(folder, state, driven) for folder, state in known if state]


def _specialists(run: Run) -> list[dict[str, Any]]:
    driven = has_driver(run.folder)
    known = [(folder, status.read(folder)) for folder in specialists.folders(run)]
    return [_job(folder, state, driven) for folder, state in known if state]


def _job(folder: Path, known: dict[str, Any], driven: bool) -> dict[str, Any]:
    """A job as it is now, which may differ from what it wrote last."""
    job = {"epoch": None, "loss": None, "node": None, "restarts": 0, **known, "job": known.get("job", folder.name)}
    state, begun = job.get("state"), job.pop("begun", False)
    if (folder / DONE).exists():
        state = "done"
    elif not driven and (state == "running" or (state == "queued" and (begun or "step" in job))):
        state = "stopped"
    elif state == "running" and time.time() - job.get("time", 0) > STALE:
        state = "silent"
    left = (job.get("steps", 0) - job.get("step", 0)) / job["rate"] if job.get("rate") else None
    left = 0.0 if state == "done" else left
    return {**job, "state": state, "seconds_left": left if left is None else round(left, 1)}

"""What a run has done and is doing, from its files alone: for `kdscale status`, live or after the fact."""

import time
from pathlib import Path
from typing import Any

from kdscale.data.manifest import FILE
from kdscale.pipeline import data, evaluate, logits, report, student, teachers
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
    jobs = [*_jobs(run, "teachers/seed-*"), *_jobs(run, "students/*")]
    return {
        "run": str(folder),
        "name": run.recipe.name,
        "stages": _stages(run) if imported else {"data": {"done": 0, "total": 1}},
        "seconds": run.seconds(),
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
        "evaluate": (evaluate, 1),
        "report": (report, 1),
    }
    return {
        stage: {"done": total - len(module.missing(run)), "total": total} for stage, (module, total) in totals.items()
    }


def _jobs(run: Run, pattern: str) -> list[dict[str, Any]]:
    found = []
    for folder in sorted(run.folder.glob(pattern)):
        state = status.read(folder)
        if not state:
            continue
        if (folder / DONE).exists():
            state["state"] = "done"
        if state.get("state") == "running" and not has_driver(run.folder):
            state["state"] = "stopped"
        elif state.get("state") == "running" and time.time() - state.get("time", 0) > STALE:
            state["state"] = "silent"
        left = (state.get("steps", 0) - state.get("step", 0)) / state["rate"] if state.get("rate") else None
        found.append({**state, "job": state.get("job", folder.name), "seconds_left": left and round(left, 1)})
    return found

"""What the specialists bring, for results.json: the two tables of Hinton, Vinyals & Dean 2015, section 5.6, over all seeds."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdscale.pipeline import specialists, student
from kdscale.pipeline.run import Run
from kdscale.specialists import gains
from kdscale.specialists.gains import Accuracies, Coverage
from kdscale.specialists.sets import ClassSets

if TYPE_CHECKING:
    from kdscale.pipeline.measuring import Labelled


def measure(run: Run, test: "Labelled") -> dict[str, Any]:
    """Test and conditional accuracy of generalists alone and with specialists, and the examples by coverage."""
    trained = student.finished_jobs(run)
    y, classes = torch.from_numpy(test.y), len(run.manifest.classes)
    alone, joined, tables, found = list[Accuracies](), list[Accuracies](), list[list[Coverage]](), []
    for seed in run.recipe.student.seeds:
        job = specialists.generalist(run, seed)
        sets = specialists.sets(run, seed, trained[job])
        assert sets is not None
        members = ClassSets.of(sets, classes).members
        before, after = (
            torch.from_numpy(test.z[name]) for name in (student.job_name(job), f"{specialists.NAME}-seed-{seed}")
        )
        alone.append(gains.accuracies(before, y, members.any(0)))
        joined.append(gains.accuracies(after, y, members.any(0)))
        tables.append(gains.by_coverage(before.argmax(1), after.argmax(1), y, members))
        names = run.manifest.classes
        groups = {"purity": gains.purity(sets, names), "chance": gains.chance(sets, names, seed)}
        found.append({"seed": seed, "sets": sets, **groups, "coverage": [asdict(row) for row in tables[-1]]})
    merged = gains.merged(tables)
    return {
        "generalist": run.recipe.specialists.generalist,
        "seeds": found,
        "test": _compared([one.test for one in alone], [one.test for one in joined]),
        "conditional": _compared([one.conditional for one in alone], [one.conditional for one in joined]),
        "coverage": [{**asdict(row), "change": row.change, "relative": row.relative} for row in merged],
        "trend": gains.trend(merged),
    }


def _compared(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any] | None:
    """Means over the seeds; None where no example is of a special class."""
    if any(value is None for value in before):
        return None
    a, b = np.array(before, float), np.array(after, float)
    relative = b / np.maximum(a, 1e-12) - 1
    return {
        "before": float(a.mean()),
        "after": float(b.mean()),
        "relative": float(relative.mean()),
        "each": relative.tolist(),
        "alone": a.tolist(),
        "together": b.tolist(),
    }

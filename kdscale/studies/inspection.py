"""Inspections: recall at a fixed rate of false alarms, of members, ensemble and student (Zuchniak 2023, applications).

An alarm is raised where the probability of the classes that matter exceeds a threshold, set so that the given part of the other
pictures raise one. The same nets are also measured with splits that share airframes or cameras, which flatters them.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.pipeline import evaluate
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Findings, Row, above
from kdscale.studies.lab import Lab
from kdscale.training.metrics import softmax

SEEDS = (2, 5)
QUICK = ("teachers.count=3", "teachers.epochs=20", "student.epochs=20")
FALSE_ALARMS = 0.05
"""Part of the pictures without a finding that may raise an alarm."""
TASKS = {
    "corrosion, moderate or worse": ("corrosion", "{airframes: 24, pictures: 60, size: 32}", [2, 3]),
    "smoke": ("smoke", "{cameras: 24, pictures: 60, size: 32}", [1]),
}


def measure(lab: Lab) -> Findings:
    found = Findings(
        notes=[
            f"Recall is at {FALSE_ALARMS:.0%} false alarms; pictures are drawn, see kdscale.data.generated.inspection."
        ]
    )
    seeds = f"student.seeds={[100 + seed for seed in range(lab.seeds)]}"
    for name, (what, options, positive) in TASKS.items():
        source = (f"data.source=kdscale.data.generated.inspection:{what}", f"data.options={options}")
        apart = lab.run(f"{what}-by-group", seeds, *source, measure=recalls, given=(positive,))
        found.rows += [
            Row(f"{name}: {kind}, {about}", [100 * value for value in apart[kind][field]])
            for field, about in (("recall", "recall"), ("accuracy", "accuracy"))
            for kind in ("single", "ensemble", "student", "control")
        ]
        recall = {kind: [100 * value for value in by["recall"]] for kind, by in apart.items()}
        found.claims += [
            above(
                f"{name}: ensemble above single, recall", recall["ensemble"] * len(recall["single"]), recall["single"]
            ),
            above(f"{name}: student above its control, recall", recall["student"], recall["control"]),
        ]
        if not lab.quick:
            mixed = lab.run(f"{what}-mixed", seeds, *source, "data.group=null", measure=recalls, given=(positive,))
            flattered = 100 * fmean(mixed["single"]["recall"]) - fmean(recall["single"])
            found.rows.append(
                Row(f"{name}: single, recall where splits share groups", [100 * r for r in mixed["single"]["recall"]])
            )
            found.notes.append(f"{name}: splits that share groups show a recall that is {flattered:+.1f} points off.")
    return found


def recalls(run: Run, positive: Sequence[int]) -> dict[str, Any]:
    """Recall at `FALSE_ALARMS` and accuracy (0 to 1) of members, ensemble, students and controls on the test split."""
    every = evaluate.models(run)
    test = evaluate.labelled(run, evaluate.TEST, every)
    p = {model.name: softmax(test.z[model.name]) for model in every}
    groups = {
        "single": [p[model.name] for model in every if model.like_teachers],
        "student": [one for name, one in p.items() if name.startswith("student")],
        "control": [one for name, one in p.items() if name.startswith("control")],
    }
    groups["ensemble"] = [np.mean(groups["single"], 0)]
    true = np.isin(test.y, list(positive))
    return {
        kind: {
            "recall": [recall_at(one[:, list(positive)].sum(1), true, FALSE_ALARMS) for one in each],
            "accuracy": [float((one.argmax(1) == test.y).mean()) for one in each],
        }
        for kind, each in groups.items()
    }


def recall_at(scores: NDArray[np.floating], true: NDArray[np.bool_], false_alarms: float) -> float:
    """The part of the true samples whose score exceeds the threshold that this part of the others exceeds, at most."""
    others = np.sort(scores[~true])[::-1]
    threshold = others[min(int(false_alarms * len(others)), len(others) - 1)]
    return float((scores[true] > threshold).mean())

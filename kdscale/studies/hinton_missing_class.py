"""Classes that a transfer set lacks (Hinton, Vinyals & Dean 2015, section 3): soft targets alone tell the student of them.

What is wrong is mostly the bias of the missing class. The shift is chosen on the validation split here, on the test split in the paper.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.pipeline import evaluate
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Findings, Row, above
from kdscale.studies.hinton_mnist import SMALL
from kdscale.studies.lab import Lab

SEEDS = (1, 3)
QUICK = (SMALL, "teachers.epochs=3", "student.epochs=3", "student.model.hidden=[300, 300]")
MISSING, FEW = "3", ("7", "8")
SHIFTS = np.linspace(-20, 20, 801)


def measure(lab: Lab) -> Findings:
    seeds = f"student.seeds={list(range(lab.seeds))}"
    rest = [str(number) for number in range(10) if str(number) != MISSING]
    without = lab.run("no-threes", seeds, f"student.classes={rest}", measure=shifted, given=([MISSING], MISSING))
    only = lab.run(
        "sevens-and-eights", seeds, f"student.classes={list(FEW)}", measure=shifted, given=(list(FEW), MISSING)
    )
    threes, n = without["of_class"], without["n"]

    def percent(kind: str, field: str) -> list[float]:
        return [100 * one[field] / n for one in only[kind]]

    def errors(kind: str, field: str) -> list[float]:
        return [one[field] for one in without[kind]]

    rows = [
        Row("no threes: errors", errors("student", "errors"), 206, "errors"),
        Row(f"no threes: errors among the {threes:,} threes", errors("student", "of_class"), 133, "errors"),
        Row("no threes, bias shifted: errors", errors("student", "errors_shifted"), 109, "errors"),
        Row("no threes, bias shifted: errors among threes", errors("student", "of_class_shifted"), 14, "errors"),
        Row("no threes, on labels: errors", errors("control", "errors"), unit="errors"),
        Row("no threes, on labels: errors among threes", errors("control", "of_class"), unit="errors"),
        Row("no threes: shift of the bias", errors("student", "shift"), 3.5, "logit"),
        Row("sevens and eights only", percent("student", "errors"), 47.3, "% errors"),
        Row("sevens and eights only, biases shifted", percent("student", "errors_shifted"), 13.2, "% errors"),
        Row("sevens and eights only, on labels", percent("control", "errors"), unit="% errors"),
        Row("sevens and eights only: shift of the biases", [one["shift"] for one in only["student"]], -7.6, "logit"),
    ]
    right = [threes - one for one in errors("control", "of_class")]
    found = [threes - one for one in errors("student", "of_class")]
    claims = [
        above("the student knows threes, which it never saw", found, [0.0] * len(found), unit="samples"),
        above("the control knows none (samples short of one)", [1.0] * len(right), right, unit="samples"),
        above(
            "the shift leaves fewer errors, no threes",
            errors("student", "errors"),
            errors("student", "errors_shifted"),
            unit="errors",
        ),
        above(
            "the shift leaves fewer errors, sevens and eights",
            percent("student", "errors"),
            percent("student", "errors_shifted"),
        ),
        above(
            "most threes are right after the shift",
            [t - 2 * one for t, one in zip([threes] * lab.seeds, errors("student", "of_class_shifted"), strict=True)],
            [0.0] * lab.seeds,
            unit="samples",
        ),
    ]
    return Findings(rows, claims, notes=["Shifts are chosen on the validation split, which has all classes."])


def shifted(run: Run, moved: Sequence[str], watched: str) -> dict[str, Any]:
    """Errors of students and controls before and after the same number is added to the logits of the `moved` classes."""
    every = [model for model in evaluate.models(run) if not model.like_teachers]
    test, validation = (evaluate.labelled(run, split, every) for split in (evaluate.TEST, evaluate.VALIDATION))
    classes = run.manifest.classes
    which = np.isin(classes, list(moved))
    of_class = test.y == classes.index(watched)
    found: dict[str, Any] = {"student": [], "control": [], "n": len(test.y), "of_class": int(of_class.sum())}
    for model in every:
        shift = best_shift(validation.z[model.name], validation.y, which)
        plain = test.z[model.name].argmax(1) != test.y
        after = (test.z[model.name] + shift * which).argmax(1) != test.y
        found[model.name.split("-")[0]].append(
            {
                "shift": shift,
                "errors": int(plain.sum()),
                "of_class": int(plain[of_class].sum()),
                "errors_shifted": int(after.sum()),
                "of_class_shifted": int(after[of_class].sum()),
            }
        )
    return found


def best_shift(z: NDArray[np.float32], y: NDArray[np.int64], moved: NDArray[np.bool_]) -> float:
    """What to add to the logits of the `moved` classes for the fewest errors: the middle of the longest best stretch of `SHIFTS`."""
    errors = np.array([((z + shift * moved).argmax(1) != y).sum() for shift in SHIFTS])
    best = np.flatnonzero(errors == errors.min())
    stretches = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(stretches, key=len)
    return float(SHIFTS[longest[len(longest) // 2]])

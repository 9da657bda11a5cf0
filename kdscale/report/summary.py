"""What a run came to, in sentences: one wording for the terminal's caption and the page's first paragraph.

Pure functions of the results. A comparison that has no meaning (no control, a single teacher, an ensemble
that gains nothing) is left out or said plainly; a student that does worse is said to do worse.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from kdscale.report.results import Metrics, Model, Results, Split

TIE = 1e-9
"""Differences of accuracy below this are rounding, not gain."""


class Confusion(NamedTuple):
    """Samples of class `label` that were taken for class `prediction`."""

    label: str
    prediction: str
    samples: int
    share: float
    """Of the samples of that label."""


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None where a single value has none."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def count(number: float) -> str:
    """A count of samples: whole if it is, one decimal if it is a mean."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def against_control(split: Split) -> str | None:
    """How many errors the student makes, relative to the same network trained on hard labels alone."""
    if split.control is None:
        return None
    student, control = split.student.errors, split.control.errors
    if not (math.isfinite(student) and math.isfinite(control)):
        return None
    return _compared(student, control, "its control")


def evidence(split: Split) -> str | None:
    """The counts behind `against_control`, and whether the seeds tell student and control apart."""
    if split.control is None:
        return None
    sides = [[run.errors for run in trained.each] for trained in (split.student, split.control)]
    if not all(math.isfinite(value) for side in sides for value in side):
        return None
    counts = " against ".join(_with_spread(side) for side in sides)
    text = f"{counts} of {split.student.n:,}"
    if min(len(side) for side in sides) < 2:
        return f"{text}; one seed, so chance is not excluded"
    (student_low, student_high), (control_low, control_high) = ((min(side), max(side)) for side in sides)
    apart = student_high < control_low or control_high < student_low
    return f"{text}; the ranges over {len(sides[0])} seeds {'do not overlap' if apart else 'overlap'}"


def against_joint(split: Split) -> str | None:
    """What the ensemble's networks do when they are trained jointly: the control of Allen-Zhu & Li 2023."""
    if split.joint is None or len(split.teachers) < 2:
        return None
    numbers = (split.joint.errors, split.ensemble.errors, fmean(teacher.errors for teacher in split.teachers))
    if not all(map(math.isfinite, numbers)):
        return None
    jointly, ensemble, single = map(count, numbers)
    return (
        f"{split.joint.networks} networks trained jointly, as one, make {jointly} errors, the ensemble {ensemble} and a single "
        f"teacher {single}"
    )


def gain_kept(split: Split) -> float | None:
    """The part of the ensemble's gain in accuracy over a mean teacher that the student has.

    Above 1 where the student beats the ensemble, below 0 where a teacher beats the student; None where there
    is one teacher or no gain.
    """
    single = fmean(teacher.accuracy for teacher in split.teachers)
    gain = split.ensemble.accuracy - single
    if len(split.teachers) < 2 or not gain > TIE or not math.isfinite(split.student.accuracy):
        return None
    return (split.student.accuracy - single) / gain


def against_ensemble(split: Split, models: dict[str, Model], subject: str = "it") -> str:
    """What the student, called `subject`, keeps of the ensemble's gain, and at which size.

    With one teacher, as in self-distillation, the student is compared with that teacher. Empty where nothing
    can be said.
    """
    size = size_ratio(models, "ensemble" if len(split.teachers) > 1 else "teacher")
    kept = gain_kept(split)
    if kept is None:
        return "; ".join(text for text in (_without_gain(split), f"the student has {size}" if size else None) if text)
    if kept < 0:
        points = 100 * (_single(split) - split.student.accuracy)
        text = f"{subject} keeps none of the ensemble's gain over a single teacher, and is {points:.2f} points less accurate than one"
        return f"{text}; it has {size}" if size else text
    text = f"{subject} keeps {kept:.0%} of the ensemble's gain over a single teacher"
    return f"{text} with {size}" if size else text


def _without_gain(split: Split) -> str | None:
    if len(split.teachers) > 1:
        none = split.ensemble.accuracy - _single(split) <= TIE
        return "the ensemble is no more accurate than a single teacher, so there is no gain to keep" if none else None
    student, teacher = split.student.errors, split.teachers[0].errors
    known = math.isfinite(student) and math.isfinite(teacher)
    return _compared(student, teacher, "its teacher") if known else None


def size_ratio(models: dict[str, Model], whole: str = "ensemble") -> str | None:
    """The student's parameters relative to the ensemble's: "1/5 of the ensemble's parameters"."""
    ensemble, student = models.get("ensemble"), models.get("student")
    if ensemble is None or student is None or ensemble.parameters <= 0 or student.parameters <= 0:
        return None
    ratio = ensemble.parameters / student.parameters
    if abs(ratio - 1) < 0.005:
        return f"as many parameters as the {whole}"
    if ratio >= 1.5:
        part = f"1/{ratio:,.0f} of" if ratio >= 10 else f"1/{ratio:.1f}".removesuffix(".0") + " of"
    else:
        part = f"{1 / ratio:.2g} {'of' if ratio > 1 else 'times'}"
    return f"{part} the {whole}'s parameters"


def serving(results: Results) -> str | None:
    """What serving the student takes, beside the ensemble: latency of 1 and 64 samples and throughput."""
    if results.speed is None or not {"ensemble", "student"} <= results.speed.models.keys():
        return None
    whole, one = results.speed.models["ensemble"], results.speed.models["student"]
    where = f"{results.speed.device}, {results.speed.threads} thread{'s' if results.speed.threads != 1 else ''}"
    return (
        f"to serve on {where}: one sample takes the ensemble {whole.latency_1:.3g} ms and the student {one.latency_1:.3g} "
        f"({times(whole.latency_1 / one.latency_1)} less), 64 take {whole.latency_64:.3g} and {one.latency_64:.3g} "
        f"({times(whole.latency_64 / one.latency_64)}); {whole.throughput:,.0f} and {one.throughput:,.0f} samples a second "
        f"({times(one.throughput / whole.throughput)})"
    )


def times(ratio: float) -> str:
    """A ratio as 9.2x."""
    return f"{ratio:,.0f}\N{MULTIPLICATION SIGN}" if ratio >= 100 else f"{ratio:.2g}\N{MULTIPLICATION SIGN}"


def caption(results: Results, split: str | None = None, served: bool = True) -> str:
    """One line under a table, with what serving takes if `served`; empty where nothing can be compared."""
    part = results.splits[split or results.main]
    first = against_control(part)
    second = against_ensemble(part, results.models, "it" if first else "the student")
    return "; ".join(text for text in (first, second, serving(results) if served else None) if text)


def sentences(results: Results, split: str | None = None) -> list[str]:
    """The same as whole sentences, with the counts behind them."""
    part = results.splits[split or results.main]
    first, behind = against_control(part), evidence(part)
    second = against_ensemble(part, results.models, "the student")
    if first and behind:
        first = f"{first} ({behind})"
    third = against_joint(part)
    return [text[0].upper() + text[1:] + "." for text in (first, second, third) if text]


def confused_pairs(matrix: Sequence[Sequence[int]], classes: Sequence[str], limit: int = 10) -> list[Confusion]:
    """The most frequent confusions, [label, prediction] counts, largest first; equals in the classes' order."""
    pairs = [
        Confusion(classes[label], classes[prediction], number, number / sum(row))
        for label, row in enumerate(matrix)
        for prediction, number in enumerate(row)
        if label != prediction and number > 0
    ]
    return sorted(pairs, key=lambda pair: -pair.samples)[:limit]


def values(metrics: Sequence[Metrics], name: str) -> list[float]:
    """One field of several models, those that have a finite one."""
    found = (getattr(one, name) for one in metrics)
    return [float(value) for value in found if value is not None and math.isfinite(value)]


def _compared(student: float, other: float, whose: str) -> str:
    """The student's errors in terms of another model's."""
    if student == other:
        how_many = f"equally many errors ({count(student)})" if student else "no errors"
        return f"the student and {whose} make {how_many}"
    if other == 0:
        return f"the student makes {_errors(student)}, {whose} none"
    change = student / other - 1
    if abs(change) < 0.005:
        return f"the student makes about as many errors as {whose}"
    if change > 1:
        return f"the student makes {student / other:.1f} times as many errors as {whose}"
    return f"the student makes {abs(change):.0%} {'more' if change > 0 else 'fewer'} errors than {whose}"


def _single(split: Split) -> float:
    return fmean(teacher.accuracy for teacher in split.teachers)


def _errors(number: float) -> str:
    return "1 error" if number == 1 else f"{count(number)} errors"


def _with_spread(numbers: Sequence[float]) -> str:
    mean, deviation = spread(numbers)
    return count(mean) if deviation is None else f"{mean:,.1f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{deviation:.1f}"

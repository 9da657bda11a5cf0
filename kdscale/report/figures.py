"""The pictures people look for in a run, each a function that returns one inline SVG.

Every figure says in words, for a screen reader, what its main points are. Colours mean the same everywhere:
teachers, ensemble, student and control have one each.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdscale.report.curves import Curve
from kdscale.report.results import Bin, Range, Split
from kdscale.report.summary import count, spread, values
from kdscale.report.svg import (
    CONTROL,
    ENSEMBLE,
    INK,
    JOINT,
    MUTED,
    PAPER,
    STUDENT,
    TEACHER,
    WRONG,
    drawing,
    figure,
    inline,
)

COLOURS = {"teachers": TEACHER, "ensemble": ENSEMBLE, "joint": JOINT, "student": STUDENT, "control": CONTROL}
HEAT_CLASSES = 30
"""Up to so many classes a confusion matrix can be read as a picture."""


SIZE_METRICS = {
    "accuracy": ("Accuracy", 100, "%"),
    "nll": ("NLL", 1, ""),
    "brier": ("Brier score", 1, ""),
    "ece": ("ECE", 100, "%"),
}
"""What is drawn against the ensemble's size: its name, scale and unit."""


def ensemble_size(split: Split, metric: Literal["accuracy", "nll", "brier", "ece"]) -> str | None:
    """A metric against the number of members, with student, control and joint control as levels.

    The outer band spans the smallest and largest value over the subsets of each size, the inner one a standard deviation
    about the mean. None below two sizes.
    """
    sizes = sorted(split.by_size, key=lambda row: row.members)
    ranges: list[tuple[int, Range | None]] = [(row.members, getattr(row, metric)) for row in sizes]
    known = [(members, value) for members, value in ranges if value is not None]
    if len(known) < 2:
        return None
    what, scale, unit = SIZE_METRICS[metric]
    members = [one for one, _ in known]
    means, lows, highs = ([scale * getattr(value, end) for _, value in known] for end in ("mean", "min", "max"))
    words = [f"{members[0]} members {means[0]:.4g}{unit}, {members[-1]} members {means[-1]:.4g}{unit}"]
    with drawing():
        drawn = figure()
        axes = drawn.subplots()
        axes.fill_between(members, lows, highs, color=ENSEMBLE, alpha=0.14, linewidth=0)
        deviations = [value.std for _, value in known if value.std is not None]
        if len(deviations) == len(known):
            below = [max(low, mean - scale * std) for low, mean, std in zip(lows, means, deviations, strict=True)]
            above = [min(high, mean + scale * std) for high, mean, std in zip(highs, means, deviations, strict=True)]
            axes.fill_between(members, below, above, color=ENSEMBLE, alpha=0.2, linewidth=0)
        axes.plot(members, means, color=ENSEMBLE, marker="o", markersize=3.5, linewidth=1.4, label="ensemble")
        for name, dash in (("student", (5, 1.5)), ("control", (1.5, 1.5)), ("joint", (6, 1.5, 1.5, 1.5))):
            trained = getattr(split, name)
            level = values([trained], metric) if trained else []
            if level:
                axes.axhline(scale * level[0], color=COLOURS[name], linewidth=1.4, dashes=dash, label=name)
                words.append(f"{name} {scale * level[0]:.4g}{unit}")
        axes.set_xlabel("members")
        axes.set_ylabel(f"{what}, {unit or 'nats'}" if unit or metric == "nll" else what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.03, y=0.08)
        _legend(drawn, axes)
        return inline(drawn, f"size-{metric}", f"{what} against ensemble size: {', '.join(words)}.")


def disagreement(split: Split) -> str | None:
    """On how many samples (%) every two members choose different classes; None below two members and above `HEAT_CLASSES`."""
    pairs = split.diversity.pairs if split.diversity is not None else None
    if pairs is None or not 2 <= len(pairs) <= HEAT_CLASSES:
        return None
    size = len(pairs)
    every = [100 * pairs[i][j] for i in range(size) for j in range(i)]
    most = max(every) or 1.0
    with drawing():
        drawn = figure(4.6, 4.1)
        axes = drawn.subplots()
        for i in range(size):
            for j in range(i):
                value = 100 * pairs[i][j]
                depth = 0.08 + 0.62 * value / most
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=TEACHER, alpha=depth, linewidth=0))
                if size <= 12:
                    axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=INK)
        axes.set_xlim(-0.5, size - 1.5)
        axes.set_ylim(size - 0.5, 0.5)
        axes.set_aspect("equal")
        ticks = range(size) if size <= 12 else range(0, size, 5)
        axes.set_xticks([tick for tick in ticks if tick < size - 1])
        axes.set_yticks([tick for tick in ticks if tick > 0])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("member")
        axes.set_ylabel("member")
        words = f"from {min(every):.2g}% to {max(every):.2g}% of the samples, {sum(every) / len(every):.2g}% on average"
        return inline(drawn, "disagreement", f"Disagreement of every two members: {words}.")


def fidelity(split: Split) -> str | None:
    """How far each model is from the ensemble: mean KL (nats) against the share of other decisions (%)."""
    groups = {"teachers": split.teachers, "joint": split.joint, "student": split.student, "control": split.control}
    words = []
    with drawing():
        drawn = figure()
        axes = drawn.subplots()
        for name, group in groups.items():
            models = [] if group is None else group if isinstance(group, list) else group.each
            points = [
                (100 * (1 - one.agreement), one.divergence)
                for one in models
                if one.agreement is not None and one.divergence is not None
            ]
            if points:
                apart, divergence = zip(*points, strict=True)
                style: dict[str, Any] = {"markersize": 5.5, "markeredgewidth": 0, "alpha": 0.75, "clip_on": False}
                axes.plot(apart, divergence, "o", color=COLOURS[name], label=name, **style)
                words.append(f"{name} {sum(apart) / len(apart):.2g}% and {sum(divergence) / len(divergence):.2g} nats")
        if not words:
            return None
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("decides unlike the ensemble, % of samples")
        axes.set_ylabel("KL from the ensemble, nats")
        _legend(drawn, axes)
        return inline(drawn, "fidelity", f"Distance from the ensemble, in decisions and in KL: {'; '.join(words)}.")


def _legend(drawn: Any, axes: Any, columns: int = 4) -> None:
    """Names above the axes, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        drawn.legend(handles, labels, loc="outside upper left", ncols=columns)


def errors_strip(split: Split) -> str:
    """Wrong predictions of every teacher as dots, beside the ensemble and each seed of student and control."""
    trained = {"joint": split.joint, "student": split.student, "control": split.control}
    groups = {"teachers": split.teachers, "ensemble": [split.ensemble]}
    groups |= {name: one.each for name, one in trained.items() if one is not None}
    numbers = {name: values(group, "errors") for name, group in groups.items()}
    words = []
    with drawing():
        drawn = figure(height=0.75 + 0.52 * len(numbers))
        axes = drawn.subplots()
        for row, (name, dots) in enumerate(numbers.items()):
            if not dots:
                continue
            heights = [row + _jitter(index, len(dots)) for index in range(len(dots))]
            axes.plot(
                dots, heights, "o", color=COLOURS[name], alpha=0.75, markersize=5, markeredgewidth=0, clip_on=False
            )
            mean, _ = spread(dots)
            axes.plot([mean, mean], [row - 0.36, row + 0.36], color=COLOURS[name], linewidth=1.6)
            reach = f", from {count(min(dots))} to {count(max(dots))}" if len(dots) > 1 else ""
            words.append(f"{name} {count(round(mean, 1))}{reach}")
        axes.set_yticks(range(len(numbers)), list(numbers))
        axes.set_ylim(len(numbers) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"errors among {split.ensemble.n:,} samples")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.margins(x=0.04)
        return inline(drawn, "errors", f"Errors among {split.ensemble.n:,} samples: {'; '.join(words)}.")


def _jitter(index: int, size: int) -> float:
    """A repeatable scatter, so that equal dots do not hide each other."""
    return 0.0 if size == 1 else ((index + 1) * 0.6180339887 % 1 - 0.5) * 0.5


def teacher_losses(jobs: dict[str, dict[str, Curve]], who: str = "teachers") -> str | None:
    """The training loss of every member, or specialist, a thin line each."""
    curves = [fields["loss"] for fields in jobs.values() if "loss" in fields]
    if not curves:
        return None
    last = [curve.values[-1] for curve in curves]
    with drawing():
        drawn = figure()
        axes = drawn.subplots()
        for curve in curves:
            _line(
                axes,
                curve,
                TEACHER if who == "teachers" else STUDENT,
                linewidth=0.9,
                alpha=max(0.25, 0.9 / math.sqrt(len(curves))),
            )
        _loss_axes(axes, curves)
        words = f"{len(curves)} {who} end between {min(last):.3g} and {max(last):.3g}"
        return inline(drawn, f"loss-{who}", f"Training loss over epochs: {words}.")


def student_losses(jobs: dict[str, dict[str, Curve]]) -> str | None:
    """Soft and hard losses of the students, and the hard loss of the controls, a line for each seed."""
    kinds = (
        ("student", "soft", STUDENT, "-", "student, soft"),
        ("student", "hard", STUDENT, (0, (1.2, 1.2)), "student, hard"),
        ("control", "hard", CONTROL, "-", "control, hard"),
    )
    drawn_curves: list[Curve] = []
    words = []
    with drawing():
        drawn = figure()
        axes = drawn.subplots()
        for job_kind, field, colour, style, label in kinds:
            of_kind = [fields for job, fields in sorted(jobs.items()) if job.startswith(job_kind)]
            wanted = [
                fields.get(field) or (fields.get("loss") if job_kind == "control" else None) for fields in of_kind
            ]
            curves = [curve for curve in wanted if curve is not None]
            for index, curve in enumerate(curves):
                _line(axes, curve, colour, linewidth=1.2, alpha=0.9, linestyle=style, label="" if index else label)
            if curves:
                words.append(f"{label} loss ends at {spread([curve.values[-1] for curve in curves])[0]:.3g}")
            drawn_curves += curves
        if not drawn_curves:
            return None
        _loss_axes(axes, drawn_curves)
        _legend(drawn, axes)
        return inline(drawn, "loss-student", f"Losses over epochs: {', '.join(words)}.")


def _line(axes: Any, curve: Curve, colour: str, **style: Any) -> None:
    marker = {"marker": "o", "markersize": 3} if len(curve.epochs) == 1 else {}
    axes.plot(curve.epochs, curve.values, color=colour, **style, **marker)


def _loss_axes(axes: Any, curves: Sequence[Curve]) -> None:
    """Epochs against loss; logarithmic where the losses span more than a decade."""
    every = [value for curve in curves for value in curve.values]
    if min(every) > 0 and max(every) / min(every) > 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats")
    axes.margins(x=0.02)


def reliability(bins: Sequence[Bin], name: str) -> str | None:
    """Accuracy against confidence in bins, and below how many samples each bin holds.

    A bar that ends above the diagonal is a model that is better than it thinks. None where all bins are empty.
    """
    full = [
        (one, one.confidence, one.accuracy)
        for one in bins
        if one.count and one.confidence is not None and one.accuracy is not None
    ]
    if not full:
        return None
    colour = COLOURS.get(name, INK)
    total = sum(one.count for one, _, _ in full)
    gap = sum(one.count * abs(confidence - accuracy) for one, confidence, accuracy in full) / total
    with drawing():
        drawn = figure(3.4, 3.6)
        axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, dashes=(3, 2))
        for one, confidence, accuracy in full:
            width = one.high - one.low
            axes.bar(one.low, accuracy, width, align="edge", color=colour, alpha=0.28, linewidth=0)
            axes.plot([confidence, confidence], [confidence, accuracy], color=colour, linewidth=1, alpha=0.7)
            axes.plot([confidence], [accuracy], "o", color=colour, markersize=4, markeredgewidth=0, clip_on=False)
            below.bar(one.low, one.count, width, align="edge", color=colour, alpha=0.6, edgecolor=PAPER, linewidth=0.6)
        axes.set_ylim(0, 1)
        axes.set_xlim(0, 1)
        axes.set_ylabel("accuracy")
        below.set_yscale("log")
        below.set_ylim(0.7, 1.6 * max(one.count for one, _, _ in full))
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        below.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        below.set_ylabel("samples")
        below.set_xlabel("confidence")
        below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        drawn.align_ylabels()
        words = f"the calibration error over {len(full)} filled bins is {gap:.1%}"
        return inline(drawn, f"reliability-{name}", f"Accuracy against confidence of the {name}: {words}.")


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str | None:
    """Labels (down) against predictions (across); None above `HEAT_CLASSES` classes.

    Errors are coloured by their number, the deepest being the most frequent confusion; the diagonal is grey.
    """
    size = len(classes)
    if size > HEAT_CLASSES:
        return None
    wrong = [number for i, row in enumerate(matrix) for j, number in enumerate(row) if i != j]
    most, right = max(wrong, default=0), sum(matrix[i][i] for i in range(size))
    largest = max((max(row) for row in matrix), default=0)
    names = [_short(name) for name in classes]
    with drawing():
        drawn = figure(4.6, 4.4)
        axes = drawn.subplots()
        for i, row in enumerate(matrix):
            for j, number in enumerate(row):
                if not number:
                    continue
                depth = math.sqrt(number / most) if i != j else 1.0
                colour, alpha = (MUTED, 0.16) if i == j else (WRONG, 0.12 + 0.6 * depth)
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=colour, alpha=alpha, linewidth=0))
                if size <= (12 if largest < 1000 else 8):
                    axes.text(j, i, str(number), ha="center", va="center", fontsize=8, color=INK)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        font = 9 if size <= 12 else 7 if size <= 20 else 5.5
        upright = size > 12 or max(map(len, names)) > 2
        axes.set_xticks(range(size), names, rotation=90 if upright else 0, fontsize=font)
        axes.set_yticks(range(size), names, fontsize=font)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        return inline(
            drawn,
            "confusion",
            f"Confusion matrix of {size} classes: {right:,} samples on the diagonal, {sum(wrong):,} off it.",
        )


def _short(name: str) -> str:
    """At most 12 characters; names of classes often differ only at their end."""
    return name if len(name) <= 12 else f"{name[:6]}…{name[-5:]}"


def runs(names: Sequence[str], accuracies: Sequence[dict[str, list[float]]]) -> str | None:
    """The accuracies (%) of several runs, a row each: a dot for every model."""
    if not any(accuracies):
        return None
    words = []
    with drawing():
        drawn = figure(height=0.9 + 0.5 * len(names))
        axes = drawn.subplots()
        for row, (name, models) in enumerate(zip(names, accuracies, strict=True)):
            for kind, dots in models.items():
                if kind not in COLOURS:
                    continue
                heights = [row + _jitter(index, len(dots)) for index in range(len(dots))]
                shown: dict[str, Any] = {"label": kind} if kind not in axes.get_legend_handles_labels()[1] else {}
                axes.plot(dots, heights, "o", color=COLOURS[kind], markersize=5, alpha=0.75, markeredgewidth=0, **shown)
            words.append(f"{name} {', '.join(f'{kind} {sum(d) / len(d):.4g}' for kind, d in models.items())}")
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("accuracy, %")
        axes.margins(x=0.06)
        _legend(drawn, axes, 3)
        return inline(drawn, "runs", f"Accuracy of every run: {'; '.join(words)}.")


def stage_seconds(seconds: dict[str, float]) -> str | None:
    """How long each stage took, in the order of the run."""
    known = {stage: value for stage, value in seconds.items() if math.isfinite(value) and value >= 0}
    if not known:
        return None
    with drawing():
        drawn = figure(height=0.66 + 0.32 * len(known))
        axes = drawn.subplots()
        bars = axes.barh(range(len(known)), list(known.values()), height=0.62, color=MUTED, alpha=0.55, linewidth=0)
        axes.bar_label(bars, labels=[duration(value) for value in known.values()], padding=4, color=INK)
        axes.set_yticks(range(len(known)), [_short(stage) for stage in known])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.margins(x=0.26)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel("seconds")
        words = ", ".join(f"{stage} {duration(value)}" for stage, value in known.items())
        return inline(drawn, "seconds", f"Time by stage: {words}.")


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

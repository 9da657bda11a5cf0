"""Several runs side by side: what their models are worth and cost, and in what their recipes differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from kdscale.errors import UserError
from kdscale.files import write_text
from kdscale.report import figures
from kdscale.report.forms import filled, grid
from kdscale.report.page import read_results
from kdscale.report.results import Metrics, Results, Split
from kdscale.report.stages import hours
from kdscale.report.summary import spread, values
from kdscale.report.table import NOTHING

MODELS: tuple[tuple[str, Callable[[Split], Sequence[Metrics]]], ...] = (
    ("teachers", lambda split: split.teachers),
    ("ensemble", lambda split: [split.ensemble]),
    ("joint", lambda split: split.joint.each if split.joint else []),
    ("student", lambda split: split.student.each),
    ("control", lambda split: split.control.each if split.control else []),
    ("specialists", lambda split: split.specialists.each if split.specialists else []),
    ("distilled", lambda split: split.distilled.each if split.distilled else []),
    ("mixture", lambda split: split.mixture.each if split.mixture else []),
)
MEASURES = (("accuracy", "accuracy %", 100.0, 2), ("nll", "NLL", 1.0, 3), ("ece", "ECE %", 100.0, 2))
LONGEST = 60
"""Characters of a recipe's value that are shown."""


@dataclass(frozen=True)
class Line:
    """One thing of every run."""

    label: str
    kind: str
    cells: list[str]
    best: list[bool]
    """Which of them are the best; none where all are alike or nothing is asked."""


@dataclass(frozen=True)
class Compared:
    names: list[str]
    results: list[Results]
    lines: list[Line]
    differences: list[Line]
    notes: list[str]


def read(runs: Sequence[Path]) -> Compared:
    """The runs, side by side.

    Raises:
        UserError: fewer than two, or one that is not evaluated.
    """
    if len(runs) < 2:
        raise UserError("kdscale compare: give two runs or more, such as runs/quickstart runs/t8")
    results = [read_results(run / "results.json") for run in runs]
    names = _names(runs)
    notes, models = [], _models(results)
    if len({one.dataset.fingerprint for one in results}) > 1:
        notes.append("The runs were measured on different datasets, so their numbers do not compare.")
        models = [replace(line, best=[False] * len(runs)) for line in models]
    return Compared(names, results, [*models, *_costs(results)], _differences(results), notes)


def tables(compared: Compared) -> list[Table]:
    """For the terminal: results, and what differs in the recipes."""
    found = []
    for title, lines in (("results", compared.lines), ("recipes", compared.differences)):
        if not lines:
            continue
        notes = " ".join(compared.notes) if title == "results" else ""
        shown = grid(title, notes)
        shown.add_column("", no_wrap=True)
        for name in compared.names:
            shown.add_column(name, justify="right", overflow="fold")
        for line in lines:
            cells = [Text(cell, style="bold" if best else "") for cell, best in zip(line.cells, line.best, strict=True)]
            shown.add_row(Text(line.label), *cells)
        found.append(shown)
    return found


def write(compared: Compared, path: Path) -> None:
    """The same as one page that needs no server."""
    picture = figures.runs(compared.names, [_shown(one) for one in compared.results])
    write_text(path, filled("compared.html.j2", compared=compared, picture=Markup(picture) if picture else None))


def as_json(compared: Compared) -> dict[str, Any]:
    return {
        "runs": compared.names,
        **{
            part: {line.label: line.cells for line in lines}
            for part, lines in (("results", compared.lines), ("recipes", compared.differences))
        },
        "notes": compared.notes,
    }


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names where these differ, else the paths."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def _main(results: Results) -> Split:
    return results.splits[results.main]


def _shown(results: Results) -> dict[str, list[float]]:
    """Accuracies in % of every model, for the figure."""
    found = {name: values(of(_main(results)), "accuracy") for name, of in MODELS}
    return {name: [100 * value for value in numbers] for name, numbers in found.items() if numbers}


def _models(results: list[Results]) -> list[Line]:
    lines = []
    for field, heading, scale, decimals in MEASURES:
        for name, of in MODELS:
            found = [[scale * value for value in values(of(_main(one)), field)] for one in results]
            if any(found):
                better = max if field == "accuracy" else min
                lines.append(_line(f"{name}, {heading}", name, found, decimals, better))
    return lines


def _line(
    label: str, kind: str, found: list[list[float]], decimals: int, better: Callable[[list[float]], float]
) -> Line:
    means = [spread(numbers)[0] if numbers else None for numbers in found]
    known = [mean for mean in means if mean is not None]
    first = better(known)
    alike = len({round(mean, decimals) for mean in known}) < 2
    cells = []
    for numbers in found:
        mean, deviation = spread(numbers) if numbers else (0.0, None)
        text = f"{mean:,.{decimals}f}" + (f"±{deviation:.{decimals}f}" if deviation is not None else "")
        cells.append(text if numbers else NOTHING)
    best = [not alike and mean is not None and round(mean - first, decimals) == 0 for mean in means]
    return Line(label, kind, cells, best)


def _costs(results: list[Results]) -> list[Line]:
    def line(label: str, cells: list[str]) -> Line:
        return Line(label, "cost", cells, [False] * len(cells))

    found = [line("members", [f"{len(_main(one).teachers)}" for one in results])]
    for name in ("ensemble", "student"):
        sizes = [one.models.get(name) for one in results]
        if any(sizes):
            found.append(line(f"{name}, parameters", [f"{size.parameters:,}" if size else NOTHING for size in sizes]))
    speeds = [one.speed.models.get("student") if one.speed else None for one in results]
    if any(speeds):
        found.append(line("student, ms a sample", [f"{speed.latency_1:.3g}" if speed else NOTHING for speed in speeds]))
    stores = [one.store for one in results]
    if any(stores):
        found.append(line("store, bytes a row", [f"{one.bytes_per_row:,.1f}" if one else NOTHING for one in stores]))
    found.append(line("time", [figures.duration(sum(one.seconds.values())) for one in results]))
    for name, kind in (("core-hours", "cpu_seconds"), ("GPU-hours", "gpu_seconds")):
        held = [sum(getattr(one, kind).values()) for one in results]
        if any(held):
            found.append(line(name, [hours(one) for one in held]))
    return found


def _differences(results: list[Results]) -> list[Line]:
    flat = [_flat(one.recipe) for one in results]
    keys = dict.fromkeys(key for one in flat for key in one)
    lines = []
    for key in keys:
        cells = [str(one.get(key, NOTHING)) for one in flat]
        if len(set(cells)) > 1:
            short = [cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 1]}…" for cell in cells]
            lines.append(Line(key, "recipe", short, [False] * len(cells)))
    return lines


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    prefix = f"{path}." if path else ""
    return {name: value for key, part in tree.items() for name, value in _flat(part, f"{prefix}{key}").items()}

"""The models of a run, a row each: for the terminal with `table`, and as plain cells for the page."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from kdscale.report import specialists
from kdscale.report.forms import grid
from kdscale.report.results import Metrics, Results, Split, checked
from kdscale.report.summary import caption, count, spread, values

DASH = "\N{EN DASH}"
NOTHING = DASH
"""Stands where there is no number."""
FEW = 8
"""Up to so many teachers have a row each."""


class Column(NamedTuple):
    """One measure: its heading, the field of `Metrics`, what to multiply it with, and its decimals."""

    heading: str
    field: str
    scale: float
    decimals: int


COLUMNS = (
    Column("accuracy %", "accuracy", 100, 2),
    Column("errors", "errors", 1, 1),
    Column("NLL", "nll", 1, 3),
    Column("Brier", "brier", 1, 3),
    Column("ECE %", "ece", 100, 2),
    Column("agree %", "agreement", 100, 1),
)


class Row(NamedTuple):
    kind: Literal[
        "teacher",
        "teachers",
        "ensemble",
        "joint",
        "student",
        "students",
        "control",
        "controls",
        "specialists",
        "distilled",
        "mixture",
    ]
    label: str
    cells: list[str]
    """One a column; several runs as mean±standard deviation, a dash where there is no number."""


def rows(split: Split) -> list[Row]:
    """Every model of a split: teachers (summed up where there are more than `FEW`), ensemble, joint, student, control.

    Where there are several students or controls, what they say together follows; then the generalist with its specialists, the
    student distilled from these, and the mixture of experts.
    """
    teachers = split.teachers
    found: list[Row] = []
    if len(teachers) <= FEW:
        found += [Row("teacher", _teacher(one, index), _cells([one])) for index, one in enumerate(teachers)]
    if len(teachers) > 1:
        found.append(Row("teachers", f"{len(teachers)} teachers", _cells(teachers)))
    if len(teachers) > FEW:
        found.append(Row("teachers", "  range", _ranges(teachers)))
    found.append(Row("ensemble", "ensemble", _cells([split.ensemble])))
    if split.joint is not None:
        found.append(Row("joint", f"{split.joint.networks} jointly", _cells(split.joint.each)))
    found.append(Row("student", "student", _cells(split.student.each)))
    if split.student_ensemble is not None:
        found.append(Row("students", f"  {split.student_ensemble.members} fused", _cells([split.student_ensemble])))
    if split.control is not None:
        found.append(Row("control", "control", _cells(split.control.each)))
    if split.control_ensemble is not None:
        found.append(Row("controls", f"  {split.control_ensemble.members} fused", _cells([split.control_ensemble])))
    if split.specialists is not None:
        found.append(Row("specialists", "with specialists", _cells(split.specialists.each)))
    if split.distilled is not None:
        found.append(Row("distilled", "  distilled", _cells(split.distilled.each)))
    if split.mixture is not None:
        found.append(Row("mixture", "  mixture", _cells(split.mixture.each)))
    return found


def table(results: Mapping[str, Any] | Results, split: str | None = None) -> Table:
    """The table of one split (test by default), with the run's summary as its caption.

    Raises:
        UserError: `results` is not what evaluation writes.
    """
    checked_results = checked(results)
    name = split or checked_results.main
    part = checked_results.splits[name]
    shown = grid(f"{name}: {part.ensemble.n:,} samples", caption(checked_results, name))
    shown.add_column("model", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column.heading, justify="right", overflow="fold")
    previous = None
    for row in rows(part):
        style = {"student": "bold", "teacher": "dim"}.get(row.kind)
        if row.kind == "ensemble" and previous is not None:
            shown.add_section()
        shown.add_row(Text(row.label), *(Text(cell) for cell in row.cells), style=style)
        previous = row.kind
    return shown


def gains(results: Mapping[str, Any] | Results) -> Table | None:
    """The test examples by the number of specialists that cover their class; None in a run without specialists."""
    checked_results = checked(results)
    found = checked_results.splits[checked_results.main].gains
    if found is None:
        return None
    shown = grid("specialists: examples of all seeds by coverage", specialists.sentence(found))
    for heading in specialists.COVERAGE:
        shown.add_column(heading, justify="right")
    for row in specialists.coverage(found):
        shown.add_row(*row)
    return shown


def _teacher(metrics: Metrics, index: int) -> str:
    return f"teacher {index if metrics.seed is None else metrics.seed}"


def _cells(metrics: Sequence[Metrics]) -> list[str]:
    return [_cell(column, values(metrics, column.field)) for column in COLUMNS]


def _cell(column: Column, numbers: list[float]) -> str:
    if not numbers:
        return NOTHING
    mean, deviation = spread([column.scale * number for number in numbers])
    if deviation is not None:
        return f"{mean:,.{column.decimals}f}±{deviation:.{column.decimals}f}"
    return count(mean) if column.field == "errors" else f"{mean:,.{column.decimals}f}"


def _ranges(metrics: Sequence[Metrics]) -> list[str]:
    cells = []
    for column in COLUMNS:
        numbers = [column.scale * number for number in values(metrics, column.field)]
        decimals = column.decimals if column.scale == 1 and column.field != "errors" else column.decimals - 1
        cells.append(f"{min(numbers):,.{decimals}f}{DASH}{max(numbers):,.{decimals}f}" if numbers else NOTHING)
    return cells

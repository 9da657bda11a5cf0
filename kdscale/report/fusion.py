"""The fusion rules of an ensemble, a row each: for the terminal with `table`, and as plain cells for the page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

from kdscale.report.forms import grid
from kdscale.report.table import NOTHING, Column

COLUMNS = (
    Column("errors", "errors", 1, 0),
    Column("accuracy %", "accuracy", 100, 2),
    Column("agree %", "agreement", 100, 1),
    Column("NLL", "nll", 1, 4),
    Column("Brier", "brier", 1, 4),
    Column("ECE %", "ece", 100, 2),
)


class Row(NamedTuple):
    rule: str
    votes: bool
    """Whether it is a vote, which gives a class alone."""
    cells: list[str]
    """One a column."""


def rows(compared: Mapping[str, Any]) -> list[Row]:
    """A row for each rule."""
    return [
        Row(row["rule"], "nll" not in row, [_cell(column, row.get(column.field)) for column in COLUMNS])
        for row in compared["rules"]
    ]


def table(compared: Mapping[str, Any]) -> Table:
    """The table of what `kdscale.pipeline.comparing.compare` returns: averages first, votes below a line."""
    shown = grid(
        f"{compared['split']}: {compared['n']:,} samples, {len(compared['members'])} members", caption(compared)
    )
    shown.add_column("fusion rule", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column.heading, justify="right")
    votes = False
    for row in rows(compared):
        if row.votes and not votes and shown.row_count:
            shown.add_section()
        votes = row.votes
        shown.add_row(row.rule, *row.cells)
    return shown


def _cell(column: Column, value: float | None) -> str:
    return NOTHING if value is None else f"{column.scale * value:,.{column.decimals}f}"


def caption(compared: Mapping[str, Any]) -> str:
    """What must be known to read the table."""
    found = ["agree: the same class as the mean probability"]
    votes = [row for row in compared["rules"] if "nll" not in row]
    if votes:
        found.append("votes rank the classes, so they have no probabilities; summed probability breaks their ties")
    if compared.get("member_weights"):
        cast = next(
            (f"; as {', '.join(map(str, row['ballots']))} ballots in votes" for row in votes if "ballots" in row), ""
        )
        found.append(f"means weigh members by fusion.weights{cast}")
    if any("weights" in row or "features" in row for row in compared["rules"]):
        found.append(f"weights are fitted on {compared['fitted_on']:,} validation samples")
    reasons: dict[str, list[str]] = {}
    for name, reason in compared["left_out"].items():
        reasons.setdefault(reason, []).append(name)
    found += [f"no {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "; ".join(found)

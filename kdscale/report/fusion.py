"""The fusion rules of an ensemble, a row each, for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kdscale.report.table import NOTHING, Column

COLUMNS = (
    Column("errors", "errors", 1, 0),
    Column("accuracy %", "accuracy", 100, 2),
    Column("agree %", "agreement", 100, 1),
    Column("NLL", "nll", 1, 4),
    Column("Brier", "brier", 1, 4),
    Column("ECE %", "ece", 100, 2),
)


def table(compared: Mapping[str, Any]) -> Table:
    """The table of what `kdscale.pipeline.evaluate.compare` returns: averages first, votes below a line."""
    grid = Table(
        title=Text(f"{compared['split']}: {compared['n']:,} samples, {len(compared['members'])} members"),
        caption=Text(_caption(compared)),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    grid.add_column("fusion rule", no_wrap=True)
    for column in COLUMNS:
        grid.add_column(column.heading, justify="right")
    votes = False
    for row in compared["rules"]:
        if "nll" not in row and not votes and grid.row_count:
            grid.add_section()
        votes = "nll" not in row
        grid.add_row(row["rule"], *(_cell(column, row.get(column.field)) for column in COLUMNS))
    return grid


def _cell(column: Column, value: float | None) -> str:
    return NOTHING if value is None else f"{column.scale * value:,.{column.decimals}f}"


def _caption(compared: Mapping[str, Any]) -> str:
    """What must be known to read the table."""
    found = ["agree: the same class as the mean probability"]
    if any("nll" not in row for row in compared["rules"]):
        found.append("votes rank the classes, so they have no probabilities; summed probability breaks their ties")
    if any("weights" in row for row in compared["rules"]):
        found.append(f"weights are fitted on {compared['fitted_on']:,} validation samples")
    if compared["left_out"]:
        names = ", ".join(compared["left_out"])
        found.append(f"without a validation split to fit weights on (data.validation) there is no {names}")
    return "; ".join(found)

"""What a study found: numbers beside the paper's, stated inequalities with how far they hold, and what is drawn.

A number is a list, one value for each repetition; means and spreads (sample standard deviations) are taken here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Row:
    """A quantity that was measured."""

    what: str
    values: Sequence[float]
    """One for each repetition, in `unit`."""
    paper: float | None = None
    """The paper's figure, in the same unit; of other data where the study's data are others."""
    unit: str = "%"

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, **summed(self.values), "unit": self.unit, "paper": self.paper}


@dataclass(frozen=True)
class Claim:
    """An inequality that the paper states: the mean margin must exceed `least`."""

    what: str
    margins: Sequence[float]
    """By how much it holds, one for each repetition."""
    least: float = 0.0
    unit: str = "%"

    @property
    def holds(self) -> bool:
        return fmean(self.margins) > self.least

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            **summed(self.margins),
            "unit": self.unit,
            "bound": f"> {self.least:.3g}",
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Lines:
    """A figure: one line for each series over x, with its spread."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, Sequence[float]]]]
    """By name: x and one value for each repetition."""
    logarithmic: bool = False
    """Of the x axis."""

    def as_json(self) -> dict[str, Any]:
        series = {
            name: [{"x": x, **summed(values)} for x, values in points] for name, points in self.series.items() if points
        }
        return {"title": self.title, "x": self.x, "y": self.y, "logarithmic": self.logarithmic, "series": series}


@dataclass
class Findings:
    """All that a study has to say."""

    rows: list[Row] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences: what is unlike the paper, and what was found beside the claims."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """Further panels of the page: `title`, `caption`, `columns`, and `rows`: a `label` and `cells`, each a `label` and `images` (URLs)."""

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": [row.as_json() for row in self.rows],
            "claims": [claim.as_json() for claim in self.claims],
            "lines": [lines.as_json() for lines in self.lines],
            "notes": self.notes,
            "pictures": self.pictures,
        }


def above(what: str, more: Sequence[float], less: Sequence[float], least: float = 0.0, unit: str = "%") -> Claim:
    """`more` exceeds `less`, pair by pair where both have one value for each repetition, else against the mean of `less`."""
    paired = less if len(more) == len(less) else [fmean(less)] * len(more)
    return Claim(what, [a - b for a, b in zip(more, paired, strict=True)], least, unit)


def summed(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread (None of a single value), and the values themselves."""
    numbers = [float(value) for value in values]
    return {"mean": fmean(numbers), "spread": stdev(numbers) if len(numbers) > 1 else None, "values": numbers}


def figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was found as the machine-readable list of figures: measured numbers first, then the checks."""
    shown = []
    for row in found["rows"]:
        shown.append({"name": row["what"], "value": row["mean"], "unit": row["unit"], "bound": None, "holds": None})
        shown[-1] |= {"spread": row["spread"], "seeds": len(row["values"]), "paper": row["paper"]}
    for claim in found["claims"]:
        shown.append({name: claim[name] for name in ("unit", "bound", "holds", "spread")})
        shown[-1] |= {"name": claim["what"], "value": claim["mean"], "seeds": len(claim["values"])}
    return shown

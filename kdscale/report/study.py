"""A study's findings: tables for the terminal and as Markdown, and STUDY/index.html with figures like the paper's.

Reads what `kdscale.studies.lab` concludes and nothing else, so that a page can be drawn again from results.json alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from kdscale.files import write_text
from kdscale.report.forms import filled, grid
from kdscale.report.page import Picture
from kdscale.report.svg import CONTROL, ENSEMBLE, JOINT, MUTED, STUDENT, TEACHER, WRONG, drawing, figure, inline
from kdscale.report.table import NOTHING

PAGE, TABLES = "index.html", "tables.md"
COLOURS = (ENSEMBLE, STUDENT, TEACHER, JOINT, CONTROL, WRONG, MUTED)
MOST_DOTS = 24
"""Rows of one unit that are drawn as dots; longer tables are for their lines."""


def tables(study: Mapping[str, Any]) -> list[Table]:
    """Numbers beside the paper's, and which claims hold."""
    numbers = _grid("measured", "here", "seeds", "the paper", "unit", title=f"{study['study']}: {study['source']}")
    for row in _rows(study):
        numbers.add_row(row["what"], row["ours"], row["seeds"], row["paper"], row["unit"])
    claims = _grid("claim", "margin", "needed", "seeds", "here")
    for claim in _claims(study):
        here = Text("holds", "green") if claim["holds"] else Text("does not hold", "bold red")
        claims.add_row(claim["what"], claim["margin"], claim["bound"], claim["seeds"], here)
    shown = [numbers, claims] if claims.row_count else [numbers]
    shown[-1].caption = Text(" ".join(study["notes"])) if study["notes"] else None
    return shown


def render(folder: Path, study: Mapping[str, Any]) -> Path:
    """Write the study's page, one file that needs no server and no network, and return its path; beside it the tables alone."""
    page = filled(
        "study.html.j2",
        study=study,
        rows=_rows(study),
        claims=_claims(study),
        pictures=[*(lines(one, f"lines-{i}") for i, one in enumerate(study["lines"])), *dots(study)],
        panels=study["pictures"],
        recipe=yaml.safe_dump(study["recipe"], sort_keys=False, allow_unicode=True, width=100),
    )
    write_text(folder / TABLES, markdown(study))
    write_text(folder / PAGE, page)
    return folder / PAGE


def markdown(study: Mapping[str, Any]) -> str:
    """The tables as Markdown, to paste; the unit stands with the number unless it is %."""
    numbers = [
        [
            row["what"],
            f"{row['ours']} {row['unit']}".removesuffix(" %"),
            row["seeds"],
            row["paper"].replace(NOTHING, ""),
        ]
        for row in _rows(study)
    ]
    claims = [
        [
            claim["what"],
            claim["margin"],
            claim["bound"],
            claim["seeds"],
            "holds" if claim["holds"] else "**does not hold**",
        ]
        for claim in _claims(study)
    ]
    found = _pipes(["measured", "here", "seeds", "the paper"], numbers)
    return f"{found}\n{_pipes(['claim', 'margin', 'needed', 'seeds', 'here'], claims)}" if claims else found


def _pipes(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def lines(drawn: Mapping[str, Any], name: str) -> Picture:
    """One line a series, its spread as a band."""
    words = []
    with drawing():
        canvas = figure()
        axes = canvas.subplots()
        for (label, points), colour in zip(drawn["series"].items(), COLOURS * 4, strict=False):
            x, mean = [point["x"] for point in points], [point["mean"] for point in points]
            apart = [point["spread"] or 0.0 for point in points]
            low, high = ([m + sign * s for m, s in zip(mean, apart, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, mean, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=label)
            words.append(f"{label} from {mean[0]:.4g} to {mean[-1]:.4g}")
        if drawn["logarithmic"]:
            axes.set_xscale("log")
            ticks = sorted({point["x"] for points in drawn["series"].values() for point in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_xlabel(drawn["x"])
        axes.set_ylabel(drawn["y"])
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        svg = inline(canvas, name, f"{drawn['title']}: {'; '.join(words)}.")
    return Picture(drawn["title"], "Means over seeds; bands are a standard deviation.", Markup(svg))


def dots(study: Mapping[str, Any]) -> list[Picture]:
    """For each unit, the measured numbers as a dot a seed, with the paper's as a bar where it has one."""
    pictures: list[Picture] = []
    for unit in dict.fromkeys(row["unit"] for row in study["rows"]):
        rows = [row for row in study["rows"] if row["unit"] == unit][:MOST_DOTS]
        with drawing():
            canvas = figure(height=0.9 + 0.26 * len(rows))
            axes = canvas.subplots()
            for height, row in enumerate(rows):
                places = [height] * len(row["values"])
                axes.plot(row["values"], places, "o", color=ENSEMBLE, alpha=0.6, markersize=4.5, markeredgewidth=0)
                if row["paper"] is not None:
                    axes.plot([row["paper"]] * 2, [height - 0.35, height + 0.35], color=STUDENT, linewidth=1.6)
            axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_xlabel(unit)
            words = "; ".join(f"{row['what']} {row['mean']:.4g}" for row in rows)
            svg = inline(canvas, f"dots-{len(pictures)}", f"Measured, {unit}: {words}.")
        told = any(row["paper"] is not None for row in rows)
        caption = f"A dot for each repetition{', a bar where the paper is' if told else ''}."
        pictures.append(Picture(f"Measured, {unit}", caption, Markup(svg)))
    return pictures


def _rows(study: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "what": row["what"],
            "ours": _number(row["mean"], row["spread"]),
            "seeds": str(len(row["values"])),
            "paper": NOTHING if row["paper"] is None else f"{row['paper']:g}",
            "unit": row["unit"],
        }
        for row in study["rows"]
    ]


def _claims(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "what": claim["what"],
            "margin": _number(claim["mean"], claim["spread"]),
            "bound": claim["bound"],
            "seeds": str(len(claim["values"])),
            "holds": claim["holds"],
        }
        for claim in study["claims"]
    ]


def _number(mean: float, spread: float | None) -> str:
    decimals = 1 if abs(mean) >= 100 else 2 if abs(mean) >= 1 else 3
    return f"{mean:.{decimals}f}" if spread is None else f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def _grid(*headings: str, title: str | None = None) -> Table:
    shown = grid(title)
    for number, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if 0 < number < len(headings) - 1 else "left")
    return shown

"""The page of a run: RUN/report/index.html, one file that opens without a server, a network or a script.

Reads what the stages left (results.json, metrics.jsonl, recipe.yaml), draws the figures and fills the
template. The same inputs give the same bytes.
"""

import json
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdscale.errors import UserError
from kdscale.files import write_text
from kdscale.report import curves, figures, summary, table
from kdscale.report.results import Model, Results, Split, checked


class Picture(NamedTuple):
    """A figure with its heading and one line below it."""

    title: str
    caption: str
    svg: Markup
    small: bool = False
    """Three of them stand side by side where the others stand in two columns."""


class Cost(NamedTuple):
    name: str
    network: str
    parameters: str
    size: str


def render(run: Path) -> Path:
    """Write the page of the run in `run` and return its path.

    Raises:
        UserError: there is no results.json, or a file of the run is not what the stages write.
    """
    results = _read_results(run / "results.json")
    found = curves.read(run / "metrics.jsonl")
    environment = Environment(
        loader=PackageLoader("kdscale.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    split = results.splits[results.main]
    page = environment.get_template("page.html.j2").render(
        name=str(results.recipe.get("name") or run.resolve().name),
        results=results,
        main=results.main,
        sentences=summary.sentences(results),
        headlines=_headlines(results, split),
        columns=table.COLUMNS,
        tables={name: table.rows(results.splits[name]) for name in _main_first(results)},
        captions={name: summary.caption(results, name) for name in results.splits},
        pictures=_pictures(results, split, found),
        pairs=_pairs(results, split),
        costs=[_cost(name, model) for name, model in results.models.items()],
        ratio=summary.size_ratio(results.models),
        recipe=_read_recipe(run / "recipe.yaml", results),
        torn=found.torn,
    )
    path = run / "report" / "index.html"
    write_text(path, page)
    return path


def _read_results(path: Path) -> Results:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run `kdscale evaluate` first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `kdscale evaluate` again") from None
    return checked(value, str(path))


def _read_recipe(path: Path, results: Results) -> str:
    """The recipe as saved with the run; from the results where it was not."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return yaml.safe_dump(results.recipe, sort_keys=False, allow_unicode=True, width=100)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); mend it or move it away") from None


def _main_first(results: Results) -> list[str]:
    return [results.main, *(name for name in results.splits if name != results.main)]


def _headlines(results: Results, split: Split) -> list[tuple[str, str, str]]:
    """The few numbers to see first: (value, what it is, kind)."""
    found = [(f"{100 * split.student.accuracy:.2f} %", "student's accuracy", "student")]
    if split.control is not None:
        found.append((f"{100 * split.control.accuracy:.2f} %", "control's accuracy", "control"))
    found.append((f"{100 * split.ensemble.accuracy:.2f} %", "ensemble's accuracy", "ensemble"))
    ensemble, student = results.models.get("ensemble"), results.models.get("student")
    if ensemble and student and student.parameters > 0 and ensemble.parameters > 0:
        ratio = ensemble.parameters / student.parameters
        text = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
        found.append((f"{text}\N{MULTIPLICATION SIGN}", "ensemble's parameters over the student's", "plain"))
    return found


def _pictures(results: Results, split: Split, found: curves.Curves) -> list[Picture]:
    teachers, student = found.by_stage.get("teachers", {}), found.by_stage.get("student", {})
    drawn: list[tuple[str, str, str | None, bool]] = [
        (
            "Accuracy against ensemble size",
            "Mean over subsets of the teachers; the band spans the worst and the best subset.",
            figures.ensemble_size(split, "accuracy"),
            False,
        ),
        (
            "NLL against ensemble size",
            "Negative log-likelihood of the labels; lower is better.",
            figures.ensemble_size(split, "nll"),
            False,
        ),
        (
            "Errors of every model",
            "A dot for each seed, a bar for their mean: how far chance alone moves a teacher.",
            figures.errors_strip(split),
            False,
        ),
        ("Time by stage", "Wall-clock time of the stages that ran.", figures.stage_seconds(results.seconds), False),
        ("Teachers' training loss", "A line for each member.", figures.teacher_losses(teachers), False),
        (
            "Student's losses",
            "Soft: against the ensemble at the recipe's temperature; hard: against the labels.",
            figures.student_losses(student),
            False,
        ),
        *(
            (
                f"Calibration of the {name}",
                "Dots on the diagonal are honest; above it the model is too modest, below it too sure.",
                figures.reliability(split.reliability[name], name),
                True,
            )
            for name in ("ensemble", "student", "control")
            if name in split.reliability
        ),
    ]
    matrix = split.confusion.get("student")
    if matrix is not None:
        drawn.append(
            (
                "Student's confusions",
                "Labels down, predictions across; the deeper the red, the more frequent the confusion.",
                figures.confusion(matrix, results.dataset.classes),
                False,
            )
        )
    return [Picture(title, caption, Markup(svg), small) for title, caption, svg, small in drawn if svg is not None]


def _pairs(results: Results, split: Split) -> list[summary.Confusion]:
    matrix = split.confusion.get("student")
    return [] if matrix is None else summary.confused_pairs(matrix, results.dataset.classes)


def _cost(name: str, model: Model) -> Cost:
    return Cost(
        name,
        model.name or table.NOTHING,
        f"{model.parameters:,}",
        table.NOTHING if model.bytes is None else _size(model.bytes),
    )


def _size(number: int) -> str:
    """Bytes in the largest decimal unit that leaves at least 1."""
    value: float = number
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"

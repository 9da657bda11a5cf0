"""The page of a run: RUN/report/index.html, one file that opens without a server, a network or a script.

Reads what the stages left (results.json, metrics.jsonl, recipe.yaml), draws the figures and fills the
template. The same inputs give the same bytes.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup

from kdscale.errors import UserError
from kdscale.files import write_text
from kdscale.report import curves, figures, fusion, specialists, stages, summary, table
from kdscale.report.forms import filled
from kdscale.report.results import Metrics, Model, Results, Speed, Split, Stored, checked

CALIBRATED = {"joint": "joint control", "specialists": "generalist with specialists"}


class Picture(NamedTuple):
    """A figure with its heading and one line below it."""

    title: str
    caption: str
    svg: Markup
    small: bool = False
    """Three of them stand side by side where the others stand in two columns."""


class Scaling(NamedTuple):
    """What temperature scaling does to a model, as cells."""

    kind: str
    label: str
    cells: list[str]


class Cost(NamedTuple):
    """What a model costs, as cells: parameters, size, latency of 1 and of 64 samples in ms, samples a second."""

    name: str
    network: str
    cells: list[str]


def render(run: Path) -> Path:
    """Write the page of the run in `run` and return its path.

    Raises:
        UserError: there is no results.json, or a file of the run is not what the stages write.
    """
    results = read_results(run / "results.json")
    found = curves.read(run / "metrics.jsonl")
    recipe = _read_recipe(run / "recipe.yaml", results)
    split = results.splits[results.main]
    page = filled(
        "page.html.j2",
        name=str(results.recipe.get("name") or run.resolve().name),
        results=results,
        main=results.main,
        sentences=summary.sentences(results),
        headlines=_headlines(results, split),
        columns=table.COLUMNS,
        tables={name: table.rows(results.splits[name]) for name in _main_first(results)},
        captions={name: summary.caption(results, name, served=False) for name in results.splits},
        pictures=_pictures(results, split, found),
        pairs=_pairs(results, split),
        scaling=_scaling(split),
        chance=_chance(split),
        diversity=_diversity(split),
        store=_store(results),
        fidelity=_fidelity(results),
        fusion=_fusion(run / "fusion.json", results),
        fusion_columns=fusion.COLUMNS,
        gains=_gains(results, split),
        costs=_costs(results),
        stages=stages.stages(results, stages.Prices.of(yaml.safe_load(recipe))),
        ratio=summary.size_ratio(results.models),
        speed=results.speed,
        recipe=recipe,
        torn=found.torn,
    )
    path = run / "report" / "index.html"
    write_text(path, page)
    return path


def read_results(path: Path) -> Results:
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


def _fusion(path: Path, results: Results) -> tuple[list[fusion.Row], str] | None:
    """The table of fusion rules and its caption; None where none was asked for since these results were made."""
    try:
        compared = json.loads(path.read_text(encoding="utf-8"))
        if compared["fingerprint"] != results.fingerprint:
            return None
        return fusion.rows(compared), fusion.caption(compared)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `kdscale evaluate --fusion all` again") from None


def _scaled_models(split: Split) -> list[tuple[str, str, list[Metrics]]]:
    """Each kind of model, its name, and the models of it to which a temperature was fitted."""
    kinds: list[tuple[str, str, list[Metrics]]] = [
        ("teachers", "teachers", list(split.teachers)),
        ("ensemble", "ensemble", [split.ensemble]),
        ("joint", "joint control", split.joint.each if split.joint else []),
        ("student", "student", split.student.each),
        ("control", "control", split.control.each if split.control else []),
    ]
    return [(kind, name, fitted) for kind, name, all_ in kinds if (fitted := [one for one in all_ if one.scaled])]


def _scaling(split: Split) -> list[Scaling]:
    """T, and NLL before and after it on the validation split, where it was fitted, and here; ECE here. Means over seeds."""
    rows = []
    for kind, name, models in _scaled_models(split):
        scaled = [one.scaled for one in models if one.scaled is not None]
        fitted = [one.fitted for one in scaled if one.fitted is not None]
        numbers: list[tuple[list[float | None], float, int]] = [
            ([one.temperature for one in scaled], 1, 2),
            ([one.nll_before for one in fitted], 1, 4),
            ([one.nll for one in fitted], 1, 4),
            ([one.nll for one in models], 1, 4),
            ([one.nll for one in scaled], 1, 4),
            ([one.ece for one in models], 100, 2),
            ([one.ece for one in scaled], 100, 2),
        ]
        cells = []
        for found, scale, decimals in numbers:
            known = [scale * value for value in found if value is not None]
            cells.append(f"{sum(known) / len(known):.{decimals}f}" if known else table.NOTHING)
        rows.append(Scaling(kind, name, cells))
    return rows


def _chance(split: Split) -> str | None:
    """In words, whether the temperatures gained more than chance where they were fitted, and whether it held here."""
    every = [one for _, _, models in _scaled_models(split) for one in models]
    fitted = [
        (one, one.scaled, one.scaled.fitted)
        for one in every
        if one.scaled and one.scaled.fitted and one.nll is not None
    ]
    if not fitted:
        return None
    clear = sum(found.nll_before - found.nll > 2 * found.error for _, _, found in fitted)
    held = sum(scaled.nll < one.nll for one, scaled, _ in fitted if one.nll is not None)
    return (
        f"Of {len(fitted)} temperatures, each fitted to {fitted[0][2].n:,} validation samples, {clear} gained more there than "
        f"two standard errors, and {held} made the NLL on this split smaller."
    )


def _diversity(split: Split) -> str | None:
    """The diversity of the members in a sentence."""
    found = split.diversity
    if found is None or len(split.teachers) < 2:
        return None
    text = f"Two members disagree on {found.disagreement:.2%} of the samples"
    if found.entropy is None or found.mean_entropy is None or found.mutual_information is None:
        return f"{text}."
    return (
        f"{text}; the entropy of their mean distribution is {found.entropy:.4f} nats, of which {found.mean_entropy:.4f} are "
        f"their own and {found.mutual_information:.4f} come from their differing (mutual information)."
    )


def _gains(results: Results, split: Split) -> dict[str, Any] | None:
    """What the section on specialists shows."""
    gains = split.gains
    if gains is None:
        return None
    return {
        "sentence": specialists.sentence(gains),
        "accuracies": specialists.accuracies(gains),
        "headings": specialists.COVERAGE,
        "coverage": specialists.coverage(gains),
        "clusters": specialists.clusters(gains, results),
    }


def _store(results: Results) -> list[tuple[str, str]] | None:
    """What the store holds, a fact a row."""
    store = results.store
    if store is None:
        return None
    codec = ", ".join(f"{value}" if name == "name" else f"{name} {value}" for name, value in store.codec.items())
    return [
        ("Codec", codec),
        ("Size", f"{_size(store.bytes)}, {store.bytes_per_row:,.1f} bytes a row"),
        ("Rows", f"{store.rows:,}: {', '.join(_counted(store, part) for part in ('members', 'shards', 'views'))}"),
    ]


def _counted(store: Stored, part: str) -> str:
    """How many of its members, shards or views a store has: 5 members, 1 view."""
    count = getattr(store, part)
    return f"{count:,} {part if count != 1 else part.removesuffix('s')}"


def _fidelity(results: Results) -> list[tuple[str, str]] | None:
    found = results.store.fidelity if results.store is not None else None
    if found is None:
        return None
    return [
        ("KL, nats", f"{found.kl:.3g}"),
        ("same class", f"{found.agreement:.2%}"),
        ("calibration error, difference", f"{100 * found.ece_gap:+z.2f} %"),
        ("angle of the gradients", f"{found.angle:.3g}\N{DEGREE SIGN}"),
    ]


def _main_first(results: Results) -> list[str]:
    return [results.main, *(name for name in results.splits if name != results.main)]


def _headlines(results: Results, split: Split) -> list[tuple[str, str, str]]:
    """The few numbers to see first: (value, what it is, kind)."""
    found = [(f"{100 * split.student.accuracy:.2f} %", "student's accuracy", "student")]
    if split.control is not None:
        found.append((f"{100 * split.control.accuracy:.2f} %", "control's accuracy", "control"))
    found.append((f"{100 * split.ensemble.accuracy:.2f} %", "ensemble's accuracy", "ensemble"))
    if split.joint is not None:
        found.append((f"{100 * split.joint.accuracy:.2f} %", "joint control's accuracy", "joint"))
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
            "Mean over random subsets of the members; bands: a standard deviation, and the worst to the best subset.",
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
            "Brier score against ensemble size",
            "Squared distance of the probabilities from the labels; lower is better.",
            figures.ensemble_size(split, "brier"),
            False,
        ),
        (
            "Calibration error against ensemble size",
            "Expected calibration error; a mean of sure members is less sure than they are, for better or worse.",
            figures.ensemble_size(split, "ece"),
            False,
        ),
        (
            "Fidelity to the ensemble",
            "A dot for each model; the nearer to the corner, the more it says what the ensemble says.",
            figures.fidelity(split),
            False,
        ),
        (
            "Disagreement of the members",
            "The share of samples, in %, on which two members decide differently.",
            figures.disagreement(split),
            False,
        ),
        (
            "Errors of every model",
            "A dot for each seed, a bar for their mean: how far chance alone moves a teacher.",
            figures.errors_strip(split),
            False,
        ),
        (
            "Gain by coverage",
            "Classes that more specialists cover should gain more; above each bar its test examples.",
            None if split.gains is None else specialists.by_coverage(split.gains),
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
        (
            "Specialists' training loss",
            "A line for each specialist.",
            figures.teacher_losses(found.by_stage.get("specialists", {}), "specialists"),
            False,
        ),
        *(
            (
                f"Calibration of the {CALIBRATED.get(name, name)}",
                "Dots on the diagonal are honest; above it the model is too modest, below it too sure.",
                figures.reliability(split.reliability[name], name),
                True,
            )
            for name in ("ensemble", "student", "control", "joint", "specialists")
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


def _costs(results: Results) -> list[Cost]:
    """A row for each model, and the ensemble's numbers over the student's."""
    speeds = {} if results.speed is None else results.speed.models
    rows = [_cost(name, model, speeds.get(name)) for name, model in results.models.items()]
    ensemble, student = results.models.get("ensemble"), results.models.get("student")
    if not (ensemble and student and ensemble.parameters > 0 and student.parameters > 0):
        return rows
    ratios = [
        ensemble.parameters / student.parameters,
        ensemble.bytes / student.bytes if ensemble.bytes and student.bytes else None,
    ]
    if "ensemble" in speeds and "student" in speeds:
        whole, one = speeds["ensemble"], speeds["student"]
        ratios += [
            whole.latency_1 / one.latency_1, whole.latency_64 / one.latency_64, whole.throughput / one.throughput
        ]  # fmt: skip
    cells = [table.NOTHING if ratio is None else summary.times(ratio) for ratio in ratios]
    return [*rows, Cost("ensemble / student", "", cells)]


def _cost(name: str, model: Model, speed: Speed | None) -> Cost:
    cells = [f"{model.parameters:,}", table.NOTHING if model.bytes is None else _size(model.bytes)]
    if speed is not None:
        cells += [f"{speed.latency_1:.3g}", f"{speed.latency_64:.3g}", f"{speed.throughput:,.0f}"]
    return Cost(name, model.name or table.NOTHING, cells)


def _size(number: int) -> str:
    """Bytes in the largest decimal unit that leaves at least 1."""
    value: float = number
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"

"""Students of several teachers (Zuchniak 2023): the mean of the targets, the mean of the losses, mimic-all, and the super-net.

The super-net is a layer trained on all teachers: on their penultimate features it is measured as an ensemble (`stacked_features`), on
their logits (model `supernet`) it teaches a student.
"""

import json
from statistics import fmean
from typing import Any

from kdscale.ensemble import comparison
from kdscale.pipeline import comparing, teachers
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab, results
from kdscale.training.done import WEIGHTS

SEEDS = (2, 2)
QUICK = ("data.validation=1000",)
FALLBACK = (
    "data.source=digits",
    "data.path=null",
    "data.options={}",
    "data.train=null",
    "data.validation=0.1",
    "data.test=0.3",
)
MATCHES = {"mean_target": "mean target", "mean_loss": "mean of losses", "mimic_all": "mimic-all"}
PAPER = {
    (2, 1.0): (80.95, 82.08, 82.72),
    (3, 1.0): (80.95, 81.18, 83.11),
    (4, 1.0): (79.02, 82.84, 83.22),
    (5, 1.0): (83.11, 82.82, 83.66),
    (2, 0.6): (78.28, 79.94, 81.10),
    (3, 0.6): (79.21, 80.61, 81.20),
    (4, 0.6): (79.82, 79.94, 81.68),
    (5, 0.6): (80.41, 80.91, 81.86),
}
"""On CIFAR-10, by teachers and share: in the order of `MATCHES`."""
COUNTS, SHARES, ALPHAS = (2, 3, 4, 5), (1.0, 0.8, 0.6), (0.0, 0.25, 0.5)
PAIRS = (
    "data.source=digit_strings",
    "data.options={length: 2, size: 14, train: 10000, validation: 2000, test: 5000}",
    "data.train=null",
)
RESIDUAL = (
    *("data.image_size=14", "data.train=500"),
    *(
        f"{who}.{what}"
        for who in ("teachers", "student")
        for what in (
            "model={name: resnet, depth: 8, width: 8}",
            "epochs=60",
            "batch_size=64",
            "lr=0.01",
            "checkpoint_epochs=60",
        )
    ),
)
"""The nets of `mysteries-ensemble`, and as few digits."""


def measure(lab: Lab) -> Findings:
    found = Findings(notes=["The paper's figures beside ours are of CIFAR-10 and ResNet50V2."])
    sets: dict[str, tuple[str, ...]] = {"digits": ()}
    if not lab.quick:
        sets |= {"pairs": PAIRS, "residual": RESIDUAL}
    for name, changes in sets.items():
        _grid(lab, found, name, changes)
        _alphas(lab, found, name, changes)
    return found


def _grid(lab: Lab, found: Findings, name: str, changes: tuple[str, ...]) -> None:
    """All matches by teachers and share; mimic-all against the other two in every cell."""
    counts, shares = ((3,), (0.6,)) if lab.quick else (COUNTS, SHARES)
    series: dict[str, list[tuple[float, list[float]]]] = {}
    cells: list[float] = []
    for share in shares:
        for count in counts:
            about = f"{name}, {count} teachers, p = {share:g}"
            by = {match: _students(lab, name, changes, count, share, match) for match in MATCHES}
            told = PAPER.get((count, share), (None,) * 3) if name == "digits" else (None,) * 3
            found.rows += [
                Row(f"{MATCHES[match]}: {about}", values, paper)
                for (match, values), paper in zip(by.items(), told, strict=True)
            ]
            cells.append(fmean(by["mimic_all"]) - max(fmean(by["mean_target"]), fmean(by["mean_loss"])))
            for match, values in by.items():
                series.setdefault(f"{MATCHES[match]}, p = {share:g}", []).append((count, values))
    found.claims += [
        above(f"mimic-all above both others on average over {len(cells)} cells, {name}", cells, [0.0] * len(cells)),
        Claim(
            f"mimic-all is best in every cell, {name} (cells short of all)",
            [sum(cell > 0 for cell in cells) - len(cells)],
            -0.5,
            "cells",
        ),
    ]
    if len(counts) > 1:
        found.lines.append(Lines(f"Students by teachers, {name}", "teachers", "accuracy, %", series))
    _supernet(lab, found, name, changes, max(counts), shares[-1])


def _supernet(lab: Lab, found: Findings, name: str, changes: tuple[str, ...], count: int, share: float) -> None:
    """The layer on all teachers' features, as an ensemble; and that on their logits, as the teacher of a student."""
    pupils, about = _pupils(lab, count, share), f"{name}, {count} teachers, p = {share:g}"
    stacked = lab.run(
        f"{name}-stacked",
        *(*changes, f"teachers.count={count}", f"teachers.share={share}", pupils),
        measure=stacking,
        stack=True,
    )
    above_them = {
        "name": "supernet",
        "model": lab.recipe(*changes).teachers.model.model_dump(mode="json"),
        "weights": stacked.pop("weights"),
    }
    taught = ("teachers.count=1", f"teachers.model={json.dumps(above_them)}", "teachers.epochs=30", "teachers.lr=0.01")
    test = lab.run(f"{name}-super-net", *changes, *taught, pupils)
    found.rows += [Row(f"{rule}: {about}", [value]) for rule, value in stacked.items()]
    found.rows += [
        Row(f"super-net on logits: {about}", [100 * test["ensemble"]["accuracy"]]),
        Row(f"student of the super-net: {about}", [100 * run["accuracy"] for run in test["student"]["runs"]]),
    ]


def _alphas(lab: Lab, found: Findings, name: str, changes: tuple[str, ...]) -> None:
    """How much the labels should weigh, with three teachers, at every share."""
    for share in SHARES[-1:] if lab.quick else SHARES:
        for alpha in ALPHAS:
            values = _students(lab, name, changes, 3, share, "mimic_all", alpha)
            found.rows.append(Row(f"mimic-all, alpha = {alpha:g}: {name}, 3 teachers, p = {share:g}", values))


def _students(
    lab: Lab, name: str, changes: tuple[str, ...], count: int, share: float, match: str, alpha: float = 0.25
) -> list[float]:
    test = lab.run(
        f"{name}-{count}-{share:g}-{match}-{alpha:g}",
        *changes,
        *(f"teachers.count={count}", f"teachers.share={share}", f"student.match={match}", f"student.alpha={alpha}"),
        _pupils(lab, count, share),
        measure=results,
    )
    return [100 * run["accuracy"] for run in test["student"]["runs"]]


def _pupils(lab: Lab, count: int, share: float) -> str:
    """The students of a cell: the same seeds for all that is compared in it, and others in every other cell.

    A seed that does badly does so with every target, so cells that shared their seeds would all lean to one side.
    """
    first = 100 * (1 + COUNTS.index(count) + len(COUNTS) * SHARES.index(share))
    return f"student.seeds={[first + seed for seed in range(lab.seeds)]}"


def stacking(run: Run) -> dict[str, Any]:
    """Accuracy (%) of the mean probability and of the layer on all teachers' features; the teachers' weights."""
    compared = comparing.compare(run, ["mean_probability", comparison.FEATURES])
    weights = [str(teachers.member_folder(run, seed) / WEIGHTS) for seed in run.recipe.teachers.seeds]
    return {**{row["rule"]: 100 * row["accuracy"] for row in compared["rules"]}, "weights": weights}

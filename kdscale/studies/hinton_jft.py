"""Generalist and specialists: the two tables of Hinton, Vinyals & Dean 2015, section 5.6."""

from typing import Any

from kdscale.studies.findings import Claim, Findings, Row, above
from kdscale.studies.lab import Lab

SEEDS = (1, 5)
QUICK = (
    *("data.options.train=20000", "data.options.validation=2000", "data.options.test=5000"),
    *("teachers.epochs=1", "student.epochs=3"),
)
FALLBACK = ("data.path=null",)
PAPER = {0: 0.0, 1: 3.4, 2: 7.4, 3: 8.8, 4: 10.5, 5: 11.1, 6: 11.3, 7: 12.8, 8: 13.6, 9: 16.6, 10: 14.1}
"""Relative gain (%) by the number of specialists that cover the class; the last is of 10 and more."""
NOISE = 1.0
"""Relative gain (%) of classes without a specialist that still counts as none."""
SINGLE = {
    "distilled": "distilled back into one net: test",
    "mixture": "as many experts with a learnt gate, trained jointly: test",
}


def measure(lab: Lab) -> Findings:
    test = lab.run("specialists", f"student.seeds={list(range(lab.seeds))}")
    found, generalist = test["gains"], test["gains"]["generalist"]
    alone = [100 * run["accuracy"] for run in test[generalist]["runs"]]
    together = [100 * run["accuracy"] for run in test["specialists"]["runs"]]
    rows = [
        Row("generalist: test", alone, 25.0),
        Row("with specialists: test", together, 26.1),
        Row("relative gain: test", [100 * one for one in found["test"]["each"]], 4.4),
    ]
    if found["conditional"] is not None:
        rows += [
            Row("generalist: conditional", [100 * one for one in found["conditional"]["alone"]], 43.1),
            Row("with specialists: conditional", [100 * one for one in found["conditional"]["together"]], 45.9),
        ]
    by_coverage = {row["specialists"]: _relative(found, row["specialists"]) for row in found["coverage"]}
    rows += [
        Row(
            f"{row['specialists']} specialists ({row['examples']:,} examples, {row['change']:+,} correct): relative gain",
            by_coverage[row["specialists"]],
            PAPER.get(row["specialists"]),
        )
        for row in found["coverage"]
        if by_coverage[row["specialists"]]
    ]
    rows += [
        Row(what, [100 * run["accuracy"] for run in test[kind]["runs"]])
        for kind, what in SINGLE.items()
        if kind in test
    ]
    claims = [above("with specialists above the generalist", together, alone)]
    if found["conditional"] is not None:
        special, whole = ([100 * one for one in found[kind]["each"]] for kind in ("conditional", "test"))
        claims.append(above("the conditional accuracy gains more than the whole", special, whole))
    if uncovered := by_coverage.get(0):
        margins = [NOISE - abs(gain) for gain in uncovered]
        claims.append(Claim(f"classes without a specialist gain nothing, to {NOISE:g}% relative", margins))
    if found["trend"] is not None:
        claims.append(
            Claim("classes that more specialists cover gain more (rank correlation)", [found["trend"]], unit="rank")
        )
    if "distilled" in test:
        one = [100 * run["accuracy"] for run in test["distilled"]["runs"]]
        claims.append(above("distilled back into one net above the generalist of as many steps", one, alone))
    return Findings(rows, claims)


def _relative(found: dict[str, Any], specialists: int) -> list[float]:
    """The relative gain (%) of each seed on the examples whose class so many specialists cover; seeds without any are left out."""
    rows = [row for one in found["seeds"] for row in one["coverage"] if row["specialists"] == specialists]
    return [100 * (row["after"] / row["before"] - 1) for row in rows if row["before"]]

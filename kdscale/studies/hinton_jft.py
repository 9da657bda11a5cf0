"""Generalist and specialists: the two tables of Hinton, Vinyals & Dean 2015, section 5.6."""

from kdscale.studies.findings import Claim, Findings, Row, above
from kdscale.studies.lab import Lab

SEEDS = (1, 3)
QUICK = (
    *("data.options.train=20000", "data.options.validation=2000", "data.options.test=5000"),
    *("teachers.epochs=1", "student.epochs=6", "specialists.epochs=4", "specialists.distil=false"),
)
FALLBACK = ("data.path=null",)
PAPER = {0: 0.0, 1: 3.4, 2: 7.4, 3: 8.8, 4: 10.5, 5: 11.1, 6: 11.3, 7: 12.8, 8: 13.6, 9: 16.6, 10: 14.1}
"""Relative gain (%) by the number of specialists that cover the class; the last is of 10 and more."""


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
            Row("generalist: conditional", [100 * found["conditional"]["before"]], 43.1),
            Row("with specialists: conditional", [100 * found["conditional"]["after"]], 45.9),
        ]
    rows += [
        Row(
            f"{row['specialists']} specialists: relative gain on {row['examples']:,} examples",
            [100 * row["relative"]],
            PAPER.get(row["specialists"]),
        )
        for row in found["coverage"]
        if row["relative"] is not None
    ]
    if "distilled" in test:
        rows.append(
            Row("distilled back into one net: test", [100 * run["accuracy"] for run in test["distilled"]["runs"]])
        )
    claims = [above("with specialists above the generalist", together, alone)]
    if found["conditional"] is not None:
        margin = found["conditional"]["after"] - found["conditional"]["before"]
        claims.append(Claim("the conditional accuracy grows", [100 * margin]))
    if found["trend"] is not None:
        claims.append(
            Claim("classes that more specialists cover gain more (rank correlation)", [found["trend"]], unit="rank")
        )
    return Findings(rows, claims)

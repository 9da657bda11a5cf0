"""What specialists bring, for people: the two tables of Hinton, Vinyals & Dean 2015, section 5.6, the figure, the class sets."""

from typing import NamedTuple

from kdscale.report.results import Compared, Gains, Results
from kdscale.report.summary import spread
from kdscale.report.svg import ENSEMBLE, INK, drawing, figure, inline

NAMED = 24
"""Classes of a set that the page names."""
SHOWN = 64
"""Sets that the page shows."""
COVERAGE = ("specialists covering", "examples", "correct alone", "change with specialists", "relative change %")


def accuracies(gains: Gains) -> list[list[str]]:
    """Rows of: what is measured, alone %, with specialists %, relative gain %."""
    rows = [_row("test accuracy", gains.test)]
    if gains.conditional is not None:
        rows.append(_row("conditional accuracy", gains.conditional))
    return rows


def coverage(gains: Gains) -> list[list[str]]:
    """Rows of the table by coverage, the examples of all seeds together."""
    return [
        [
            f"{row.specialists}",
            f"{row.examples:,}",
            f"{row.before:,}",
            f"{row.change:+,}",
            "" if row.relative is None else f"{100 * row.relative:+.1f}",
        ]
        for row in gains.coverage
    ]


def sentence(gains: Gains) -> str:
    """The result in words."""
    text = (
        f"with specialists the {gains.generalist} is right on {100 * gains.test.after:.2f}% of the test examples "
        f"instead of {100 * gains.test.before:.2f}%, {_gain(gains.test)} relative"
    )
    if gains.conditional is not None:
        text += f", and {_gain(gains.conditional)} on examples of special classes alone"
    if gains.trend is not None:
        text += (
            f"; the gain and the number of specialists covering a class have a rank correlation of {gains.trend:.2f}"
        )
    pure = [one.purity for one in gains.seeds if one.purity is not None]
    if pure:
        share = 100 * sum(pure) / len(pure)
        text += f"; on average {share:.0f}% of a specialist's classes are of the group that is most frequent among them"
        drawn = [one.chance for one in gains.seeds if one.chance is not None]
        text += f" ({100 * sum(drawn) / len(drawn):.0f}% if drawn at random)" if drawn else ""
    return text


class Cluster(NamedTuple):
    """A class set of the first seed's generalist."""

    number: int
    size: int
    classes: str


def clusters(gains: Gains, results: Results) -> list[Cluster]:
    """The class sets of the first seed, their first classes by name."""
    names = results.dataset.classes
    found = []
    for number, one in enumerate(gains.seeds[0].sets[:SHOWN] if gains.seeds else []):
        more = f" and {len(one) - NAMED} more" if len(one) > NAMED else ""
        found.append(Cluster(number, len(one), ", ".join(names[c] for c in one[:NAMED]) + more))
    return found


def by_coverage(gains: Gains) -> str | None:
    """The relative change of correct answers against the number of specialists that cover the class."""
    rows = [(row.specialists, 100 * row.relative, row.examples) for row in gains.coverage if row.relative is not None]
    if len(rows) < 2:
        return None
    with drawing():
        drawn = figure()
        axes = drawn.subplots()
        places = range(len(rows))
        axes.bar(places, [gain for _, gain, _ in rows], width=0.62, color=ENSEMBLE, alpha=0.75, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        for place, (_, gain, examples) in zip(places, rows, strict=True):
            axes.annotate(
                f"{examples:,}",
                (place, gain),
                xytext=(0, 3 if gain >= 0 else -10),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=INK,
            )
        axes.margins(y=0.15)
        axes.set_xticks(places, [f"{number}" for number, _, _ in rows])
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("specialists that cover the class")
        axes.set_ylabel("change of correct answers, %")
        words = ", ".join(f"{number}: {gain:+.1f}%" for number, gain, _ in rows)
        return inline(drawn, "coverage", f"Relative change of correct answers by coverage: {words}.")


def _row(name: str, one: Compared) -> list[str]:
    return [name, f"{100 * one.before:.2f}", f"{100 * one.after:.2f}", _gain(one)]


def _gain(one: Compared) -> str:
    mean, deviation = spread([100 * gain for gain in one.each or [one.relative]])
    return f"{mean:+.1f}%" if deviation is None else f"{mean:+.1f}±{deviation:.1f}%"

"""MNIST: the student against its control, and which temperature suits which width (Hinton, Vinyals & Dean 2015, section 3)."""

from statistics import fmean

from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab

SEEDS = (1, 3)
SMALL = "teachers.model={name: mlp, hidden: [400, 400], dropout: 0.2}"
QUICK = (SMALL, "teachers.epochs=3", "student.epochs=5", "student.share=0.25")
WIDTHS = (800, 300, 30)
TEMPERATURES = (1.0, 2.5, 4.0, 8.0, 20.0)
PLAIN = 20.0
ALIKE = 0.15
"""Part of the errors by which temperatures that are "alike" may differ."""


def measure(lab: Lab) -> Findings:
    widths = (800, 30) if lab.quick else WIDTHS
    temperatures = (2.5, 20.0) if lab.quick else TEMPERATURES
    seeds = f"student.seeds={list(range(lab.seeds))}"
    errors: dict[int, dict[float, list[float]]] = {width: {} for width in widths}
    teacher: list[float] = []
    control: list[float] = []
    for width in widths:
        for t in temperatures:
            plain = width == WIDTHS[0] and t == PLAIN
            changes = [
                f"student.model.hidden=[{width}, {width}]",
                f"student.temperature={t}",
                f"student.control={plain}",
            ]
            test = lab.run(f"width-{width}-T-{t:g}", seeds, *changes)
            errors[width][t] = [run["errors"] for run in test["student"]["runs"]]
            if plain:
                teacher = [one["errors"] for one in test["teachers"]]
                control = [run["errors"] for run in test["control"]["runs"]]
    first = errors[WIDTHS[0]]
    rows = [
        Row("teacher 1200-1200, dropout, max-norm, jitter", teacher, 67, "errors"),
        Row("800-800 on labels", control, 146, "errors"),
        Row(f"800-800 on soft targets, T = {PLAIN:g}", first[PLAIN], 74, "errors"),
        *(
            Row(f"{width}-{width}, T = {t:g}", values, unit="errors")
            for width in widths
            for t, values in errors[width].items()
            if (width, t) != (WIDTHS[0], PLAIN)
        ),
    ]
    claims = [
        above("soft targets make fewer errors than labels", control, first[PLAIN], unit="errors"),
        above("the teacher makes fewer errors than the student on labels", control, teacher, unit="errors"),
        *_temperatures(errors),
    ]
    series = {
        f"{width} units": [(t, values) for t, values in sorted(by.items())]
        for width, by in errors.items()
        if len(by) > 1
    }
    return Findings(rows, claims, [Lines("Test errors against T", "temperature", "errors", series, logarithmic=True)])


def _temperatures(errors: dict[int, dict[float, list[float]]]) -> list[Claim]:
    """The paper: at 300 units or more all T above 8 are alike; at 30, 2.5 to 4 are best."""
    claims = []
    for width, by in errors.items():
        if width >= 300 and 8.0 in by:
            apart = [abs(a - b) for a, b in zip(by[8.0], by[PLAIN], strict=True)]
            allowed = ALIKE * fmean(by[PLAIN])
            margins = [allowed - abs(fmean(by[8.0]) - fmean(by[PLAIN]))] if len(apart) > 1 else [allowed - apart[0]]
            claims.append(Claim(f"T = 8 and {PLAIN:g} are alike to {ALIKE:.0%}, {width} units", margins, unit="errors"))
        if width == min(WIDTHS):
            low = min((t for t in by if t in (2.5, 4.0)), key=lambda t: fmean(by[t]))
            rest = min((t for t in by if t not in (2.5, 4.0)), key=lambda t: fmean(by[t]))
            claims.append(above(f"T of 2.5 to 4 is best, {width} units", by[rest], by[low], unit="errors"))
    return claims

"""What an ensemble gains on Gaussian inputs, and on structured data (Allen-Zhu & Li 2023, section 1 and appendix)."""

from statistics import fmean

from kdscale.data.generated.gaussian import TARGETS
from kdscale.studies.findings import Findings, Lines, Row, above
from kdscale.studies.lab import Lab

SEEDS = (5, 10)
QUICK = ("data.options.train=8000", "data.options.test=3000")
FAR = 2.0
"""A gain is far smaller than another if it is less than the other over this."""
MULTIVIEW = (
    *("data.source=kdscale.data.generated.multiview:load", "data.normalize=false", "data.lanes=4"),
    "data.options={k: 8, single: 0.01}",
    "teachers.model={name: smoothed, neurons: 6}",
    *("teachers.optimizer=sgd", "teachers.lr=0.5", "teachers.schedule=constant", "teachers.batch_size=100"),
    *("teachers.epochs=416", "teachers.checkpoint_epochs=416", "student.batch_size=100", "fusion=mean_logit"),
)
DIGITS = (
    *("data.source=digits", "data.options={}", "data.test=0.5", "data.validation=200", "data.train=150"),
    *("teachers.model={name: resnet, depth: 8, width: 8}", "teachers.lr=0.01", "teachers.batch_size=64"),
    *("teachers.epochs=170", "teachers.checkpoint_epochs=170"),
)


def measure(lab: Lab) -> Findings:
    count = f"teachers.count={lab.seeds}"
    targets = ("linear", "network") if lab.quick else TARGETS
    kinds = {f"Gaussian, {target}": (f"data.options.target={target}",) for target in targets}
    structured = {"multi-view, single-view samples": MULTIVIEW, "150 digits": DIGITS}
    rows, gains, series = [], {}, {}
    for name, changes in {**kinds, **structured}.items():
        test = lab.run(name.replace(", ", "-").replace(" ", "-"), count, *changes)
        single = [100 * one["accuracy"] for one in test["teachers"]]
        ensemble = 100 * test["ensemble"]["accuracy"]
        gains[name] = [ensemble - one for one in single]
        rows += [Row(f"{name}: single", single), Row(f"{name}: ensemble of {lab.seeds}", [ensemble])]
        rows.append(Row(f"{name}: gain", gains[name], unit="points"))
        part = fmean(gains[name]) / max(1e-9, 100 - fmean(single))
        rows.append(Row(f"{name}: part of the errors that go", [100 * part], unit="% of errors"))
        series[name] = [(float(size["members"]), [100 * size["accuracy"]["mean"]]) for size in test["by_size"]]
    claims = [
        above(
            f"{kind}: gain below 1/{FAR:g} of that on {what}",
            [gain / FAR for gain in gains[what]],
            gains[kind],
            unit="points",
        )
        for what in structured
        for kind in kinds
    ]
    notes = [
        "Nets on multi-view data are those of the theory, on the digits residual ones, on Gaussian inputs fully connected ones."
    ]
    return Findings(rows, claims, [Lines("Accuracy against ensemble size", "members", "accuracy, %", series)], notes)

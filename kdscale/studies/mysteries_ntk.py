"""Tangent-kernel and random-feature models: their ensemble gains, one of them cannot be taught it (Allen-Zhu & Li 2023, section 1).

The student of every seed has features of its own, and so has its control, the same ones: what these features can do with the
labels is what distillation would have to beat.
"""

from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab

SEEDS = (3, 5)
QUICK = ("teachers.epochs=100", "student.epochs=100", "teachers.checkpoint_epochs=100", "student.checkpoint_epochs=100")
WIDTHS = (3, 6, 12)
PAPER = {"single": 66.68, "ensemble": 70.54, "distilled": 66.01, "joint": 72.86}
NOISE = 1.0
"""Percentage points by which a distilled model may exceed the same features on labels and still count as no better."""


def measure(lab: Lab) -> Findings:
    found = Findings(
        notes=[f"Distilled counts as no better than labels up to {NOISE:g} point; the paper's data are CIFAR-10."]
    )
    kinds = [("tangent", width) for width in (WIDTHS[:1] if lab.quick else WIDTHS)]
    kinds += [] if lab.quick else [("random", 60)]
    series: dict[str, list[tuple[float, list[float]]]] = {}
    for features, width in kinds:
        accuracy = _accuracies(lab, features, width)
        about = f"{features}, width {width}"
        told = PAPER if (features, width) == kinds[0] else {}
        found.rows += [Row(f"{name}, {about}", values, told.get(name)) for name, values in accuracy.items()]
        found.claims += _claims(accuracy, about)
        if features == "tangent":
            for name, values in accuracy.items():
                series.setdefault(name, []).append((width, values))
        lead = sum(accuracy["joint"]) / len(accuracy["joint"]) - accuracy["ensemble"][0]
        found.notes.append(f"Jointly trained against the ensemble, {about}: {lead:+.1f} points.")
    if len(WIDTHS) > 1 and not lab.quick:
        found.lines.append(Lines("Tangent features against width", "hidden units", "accuracy, %", series))
    return found


def _accuracies(lab: Lab, features: str, width: int) -> dict[str, list[float]]:
    students = [100 + seed for seed in range(lab.seeds)]
    changes = [
        f"{part}.model={{name: tangent, width: {width}, features: {features}}}" for part in ("teachers", "student")
    ]
    changes += [f"student.seeds={students}", f"joint.seeds={list(range(lab.seeds))}"]
    test = lab.run(f"{features}-{width}", *changes)
    return {
        "single": [100 * one["accuracy"] for one in test["teachers"]],
        "ensemble": [100 * test["ensemble"]["accuracy"]],
        "distilled": [100 * one["accuracy"] for one in test["student"]["runs"]],
        "labels, same features": [100 * one["accuracy"] for one in test["control"]["runs"]],
        "joint": [100 * one["accuracy"] for one in test["joint"]["runs"]],
    }


def _claims(accuracy: dict[str, list[float]], about: str) -> list[Claim]:
    single, ensemble, distilled, labels, joint = accuracy.values()
    gain = ensemble[0] - sum(single) / len(single)
    return [
        above(f"ensemble above single, {about}", ensemble * len(single), single),
        Claim(
            f"distilled no better than labels on the same features, {about}",
            [NOISE + b - a for a, b in zip(distilled, labels, strict=True)],
        ),
        above(f"joint above single by half the ensemble's gain, {about}", joint, single, gain / 2),
    ]

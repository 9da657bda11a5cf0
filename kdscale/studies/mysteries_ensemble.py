"""Ensembles of nets that differ in their seed alone (Allen-Zhu & Li 2023, section 1): what they gain, and what does not give it."""

from statistics import fmean, stdev

from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab

SEEDS = (2, 4)
QUICK = ("teachers.count=5", "joint.networks=5")
ENOUGH = 10
"""Members of the paper's ensemble, beyond which it sees no gain."""


def measure(lab: Lab) -> Findings:
    pupils = f"student.seeds={[100 + seed for seed in range(lab.seeds)]}"
    test = lab.run("ensemble", pupils, f"joint.seeds={list(range(1 if lab.quick else 2))}")
    single = [100 * one["accuracy"] for one in test["teachers"]]
    student = [100 * run["accuracy"] for run in test["student"]["runs"]]
    joint = [100 * run["accuracy"] for run in test["joint"]["runs"]]
    ensemble = 100 * test["ensemble"]["accuracy"]
    size = {row["members"]: 100 * row["accuracy"]["mean"] for row in test["by_size"]}
    most, half = max(size), max(size) // 2
    gain, apart, networks = ensemble - fmean(single), stdev(single), test["joint"]["networks"]
    together = [100 * test["student_ensemble"]["accuracy"]] if lab.seeds > 1 else []
    rows = [
        Row("single", single, 81.51),
        Row(f"ensemble of {most}", [ensemble], 84.8 if most == ENOUGH else None),
        Row("distilled", student, 83.8),
        *(Row(f"ensemble of {lab.seeds} distilled", [one]) for one in together),
        Row(f"average of {networks}, trained jointly", joint),
        *(
            Row(f"ensembles of {n}", [size[n]], 84.8 if n == ENOUGH else None)
            for n in sorted({2, 3, 5, half} & set(size))
        ),
        Row("spread of the single nets", [apart], 0.16, "points"),
        Row(f"gain of the ensemble of {most}", [gain], 3.29 if most == ENOUGH else None, "points"),
    ]
    claims = [
        Claim("the ensemble's gain exceeds the spread of the single nets", [gain - apart], unit="points"),
        above("distilled above single", student, single),
    ]
    if networks in size:
        alone, as_many = fmean(single), size[networks] - fmean(single)
        what = f"training the average of {networks} jointly gives less than half of what as many single nets gain"
        claims.append(Claim(what, [as_many / 2 - (one - alone) for one in joint], unit="points"))
    if together and lab.seeds in size:
        little, as_many = together[0] - fmean(student), size[lab.seeds] - fmean(single)
        what = f"{lab.seeds} distilled nets together gain less than half of what as many single ones gain"
        claims.append(Claim(what, [as_many / 2 - little], unit="points"))
    if most >= 2 * ENOUGH:
        later = [(size[ENOUGH] - size[1]) / 4 - (size[most] - size[ENOUGH])]
        what = f"the gain saturates: from {ENOUGH} to {most} members less than a quarter of that up to {ENOUGH}"
        claims.append(Claim(what, later, unit="points"))
    sizes = [(float(row["members"]), [100 * row["accuracy"]["mean"]]) for row in test["by_size"]]
    levels = {
        name: [(1.0, values), (float(most), values)] for name, values in (("distilled", student), ("joint", joint))
    }
    series = {"ensemble": sizes, **levels}
    notes = ["The paper's figures beside ours are of CIFAR-100 and WRN-28-10."]
    return Findings(rows, claims, [Lines("Accuracy against ensemble size", "members", "accuracy, %", series)], notes)

"""Voting rules against the number of voters (Zuchniak 2023, fusion of ensembles' outputs).

Every repetition has voters of its own; fewer voters are the first ones of more.
"""

import numpy as np

from kdscale.ensemble import comparison, voting
from kdscale.pipeline import evaluate
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab

SEEDS = (1, 3)
QUICK = ()
VOTERS = (5, 25, 55)
SUMMED = "mean_probability"
PAPER = {
    "plurality": (58.6, 66.1, 67.7),
    "borda": (61.1, 69.8, 71.5),
    "stv": (58.3, 67.8, 69.6),
    "copeland": (60.0, 68.1, 69.9),
    SUMMED: (62.7, 69.7, 71.1),
}
SLOW = {"kemeny"}
"""Tries every order of the classes; no part of the paper's table either."""


def measure(lab: Lab) -> Findings:
    most = max(VOTERS)
    count = f"teachers.count={most * lab.seeds}"
    found = lab.run("votes", count, measure=votes, given=(lab.seeds,))
    accuracy = {rule: {n: [100 * one[str(n)][rule] for one in found] for n in VOTERS} for rule in found[0][str(most)]}
    few, many = VOTERS[0], VOTERS[-1]
    best_vote = [max(accuracy[rule][few][seed] for rule in accuracy if rule != SUMMED) for seed in range(lab.seeds)]
    rows = [
        Row(f"{rule}, {n} voters", accuracy[rule][n], dict(zip(VOTERS, PAPER[rule], strict=True))[n])
        for rule in PAPER
        for n in VOTERS
    ]
    rows += [Row(f"{rule}, {many} voters", by[many]) for rule, by in accuracy.items() if rule not in PAPER]
    claims: list[Claim] = [
        above(f"{rule}: {many} voters above {few}", by[many], by[few]) for rule, by in accuracy.items()
    ]
    claims += [
        above(f"Borda above plurality, {n} voters", accuracy["borda"][n], accuracy["plurality"][n]) for n in VOTERS
    ]
    claims.append(above(f"summed probabilities above every vote, {few} voters", accuracy[SUMMED][few], best_vote))
    series = {rule: [(float(n), by[n]) for n in VOTERS] for rule, by in accuracy.items() if rule in PAPER}
    return Findings(rows, claims, [Lines("Accuracy against voters", "voters", "accuracy, %", series)])


def votes(run: Run, repetitions: int) -> list[dict[str, dict[str, float]]]:
    """Accuracies of each repetition, by number of voters and rule."""
    members = [model for model in evaluate.models(run) if model.like_teachers]
    read = evaluate.labelled(run, evaluate.TEST, members)
    rules = [SUMMED, *(name for name in voting.RULES if name not in SLOW)]
    most = max(VOTERS)
    found: list[dict[str, dict[str, float]]] = []
    for repetition in range(repetitions):
        outputs = read.members(range(repetition * most, (repetition + 1) * most))
        by_size = {}
        for n in VOTERS:
            few = comparison.Outputs(np.ascontiguousarray(outputs.logits[:n]), outputs.y)
            by_size[str(n)] = {
                row["rule"]: row["accuracy"] for row in comparison.compare(rules, few, None, run.recipe.evaluate.bins)
            }
        found.append(by_size)
    return found

"""Soft targets as a regulariser (Hinton, Vinyals & Dean 2015, section 6): 3% of the data, learnt to the end without early stopping."""

from typing import Any

from kdscale.data.subset import select
from kdscale.pipeline import evaluate, workers
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Claim, Findings, Row, above
from kdscale.studies.lab import Lab

SEEDS = (2, 5)
QUICK = ("teachers.epochs=3", "student.epochs=40")
NOISE = 0.3
"""Percentage points by which early stopping may help and still count as not needed."""


def measure(lab: Lab) -> Findings:
    seeds = f"student.seeds={list(range(lab.seeds))}"
    to_the_end = lab.run("to-the-end", seeds, measure=accuracies)
    stopped = lab.run("stopped-early", seeds, "student.keep=best", measure=accuracies)
    soft, hard = to_the_end["student"], to_the_end["control"]
    rows = [
        Row("all data, labels: training (on the 3%)", to_the_end["teacher"]["train"], 63.4),
        Row("all data, labels: test", to_the_end["teacher"]["test"], 58.9),
        Row("3%, labels, stopped early: training", stopped["control"]["train"], 67.3),
        Row("3%, labels, stopped early: test", stopped["control"]["test"], 44.5),
        Row("3%, labels, to the end: test", hard["test"]),
        Row("3%, soft targets, to the end: training", soft["train"], 65.4),
        Row("3%, soft targets, to the end: test", soft["test"], 57.0),
        Row("3%, soft targets, stopped early: test", stopped["student"]["test"]),
    ]
    early = stopped["student"]["test"]
    claims = [
        above("soft targets above labels that are stopped early", soft["test"], stopped["control"]["test"]),
        Claim(
            f"soft targets need no early stopping, to {NOISE:g} points",
            [NOISE + a - b for a, b in zip(soft["test"], early, strict=True)],
        ),
    ]
    return Findings(rows, claims, notes=["Training accuracies are of the samples that were learnt from."])


def accuracies(run: Run) -> dict[str, Any]:
    """Accuracy (%) of teacher, students and controls on the test split and on the training samples of the students' share."""
    import torch

    every = evaluate.models(run)
    test = evaluate.labelled(run, evaluate.TEST, every)
    dataset, device = workers.dataset(run, "train"), torch.device("cpu")
    pixels, settings = workers.shared_pixels(run, device), run.recipe.student
    part = select(dataset, settings.share, settings.classes, run.recipe.seed)
    found: dict[str, Any] = {kind: {"train": [], "test": []} for kind in ("teacher", "student", "control")}
    for model in every:
        predict = workers.predictor(model.folder, model.checksum, model.spec, run.manifest, device)
        right = total = 0
        for number in range(len(dataset.shards)):
            decoded = dataset.decoded(number)
            rows = slice(None) if part is None else part.rows[number]
            x, ids, y = decoded.x[rows], decoded.ids[rows], decoded.y[rows]
            with torch.inference_mode():
                answers = predict(pixels(x, ids, ids.astype("int64") * 0)).argmax(1).numpy()
            right, total = right + int((answers == y).sum()), total + len(y)
        of = found[model.name.split("-")[0]]
        of["train"].append(100 * right / total)
        of["test"].append(100 * float((test.z[model.name].argmax(1) == test.y).mean()))
    return found

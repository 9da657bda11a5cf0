"""Self-distillation (Allen-Zhu & Li 2023, section 1): one teacher, a student of the same kind with another seed, and on.

Each teacher begins a line: its student is the teacher of the next generation, whose weights `teachers.weights` takes as they are.
"""

from typing import Any

from kdscale.pipeline import evaluate, student
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Findings, Lines, Row, above
from kdscale.studies.lab import Lab
from kdscale.training.done import WEIGHTS

SEEDS = (2, 5)
QUICK = ()


def measure(lab: Lab) -> Findings:
    generations = 1 if lab.quick else 3
    count = f"teachers.count={lab.seeds}"
    lines: list[list[float]] = [[] for _ in range(generations + 1)]
    controls: list[float] = []
    ensemble: list[float] = []
    for line in range(lab.seeds):
        seed = 100 + line
        changes = [count, f"fusion.members=[{line}]", f"student.seeds=[{seed}]"]
        for generation in range(1, generations + 1):
            found = lab.run(f"line-{line}-generation-{generation}", *changes, measure=generation_of, given=(line,))
            if generation == 1:
                lines[0].append(found["teacher"])
                controls.append(found["control"])
                ensemble = [found["ensemble"]]
            lines[generation].append(found["student"])
            changes = [
                "teachers.count=1",
                f"teachers.weights=['{found['weights']}']",
                f"student.seeds=[{seed + 100 * generation}]",
                "student.control=false",
            ]
    rows = [
        Row("teacher", lines[0], 81.51),
        *(
            Row(f"self-distilled, generation {number}", values, 83.5 if number == 1 else None)
            for number, values in enumerate(lines)
            if number
        ),
        Row("control: the same seed on labels", controls),
        Row(f"ensemble of {lab.seeds} teachers", ensemble),
    ]
    claims = [
        above("self-distilled above its teacher", lines[1], lines[0]),
        above("self-distilled above the same seed on labels", lines[1], controls),
    ]
    series = {"self-distilled": [(float(number), values) for number, values in enumerate(lines)]}
    notes = ["The paper's figures beside ours are of CIFAR-100 and WRN-28-10."]
    return Findings(rows, claims, [Lines("Accuracy by generation", "generation", "accuracy, %", series)], notes)


def generation_of(run: Run, line: int) -> dict[str, Any]:
    """Accuracies (%) of a line's teacher, student and control, and of all teachers' mean probability; the student's weights."""
    import numpy as np

    from kdscale.training.metrics import softmax

    every = evaluate.models(run)
    test = evaluate.labelled(run, evaluate.TEST, every)
    found: dict[str, Any] = {}
    for model in every:
        kind, seed = model.name.split("-")[0], int(model.name.rsplit("-", 1)[1])
        if kind != "teacher" or seed == line or len(run.recipe.teachers.seeds) == 1:
            found[kind] = 100 * float((test.z[model.name].argmax(1) == test.y).mean())
    mean = np.mean([softmax(test.z[model.name]) for model in every if model.like_teachers], 0)
    job = ("student", run.recipe.student.seeds[0])
    weights = run.locate(student.job_folder(run, job), student.fingerprint(run, job))
    assert weights is not None, "it has just been evaluated"
    return {**found, "ensemble": 100 * float((mean.argmax(1) == test.y).mean()), "weights": str(weights / WEIGHTS)}

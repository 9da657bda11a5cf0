"""Speech: an ensemble of acoustic models and the net that is distilled from it (Hinton, Vinyals & Dean 2015, section 4).

A word is the digit whose states explain an utterance best: a left-to-right Viterbi over log-posteriors less log-priors.
"""

from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.speech import fsdd, states
from kdscale.pipeline import evaluate, workers
from kdscale.pipeline.run import Run
from kdscale.studies.findings import Claim, Findings, Lines, Row, above
from kdscale.studies.lab import Lab
from kdscale.training.metrics import softmax

SEEDS = (2, 3)
QUICK = ("teachers.count=5", "teachers.epochs=8", "student.epochs=12", "logits.views=3", "data.options.every=4")
FALLBACK = ("data.path=null",)
TEMPERATURES = (1.0, 2.0, 5.0, 10.0)
BEST = 2.0
KEPT = 0.8
"""Part of the ensemble's gain that the paper's student keeps, at least."""


def measure(lab: Lab) -> Findings:
    seeds = f"student.seeds={[100 + seed for seed in range(lab.seeds)]}"
    temperatures = (BEST,) if lab.quick else TEMPERATURES
    found = {
        t: lab.run(f"T-{t:g}", seeds, f"student.temperature={t}", f"student.control={t == BEST}", measure=recognised)
        for t in temperatures
    }
    of = found[BEST]
    single, together, student = of["teachers"], of["ensemble"], of["students"]
    gain = together["frames"][0] - fmean(single["frames"])
    kept = [(one - fmean(single["frames"])) / gain for one in student["frames"]] if gain > 0 else [0.0] * lab.seeds
    rows = [
        Row("single: frames", single["frames"], 58.9),
        Row("ensemble: frames", together["frames"], 61.1),
        Row(f"distilled, T = {BEST:g}: frames", student["frames"], 60.8),
        Row("on labels, as the student: frames", of["controls"]["frames"]),
        Row("single: word errors", single["words"], 10.9),
        Row("ensemble: word errors", together["words"], 10.7),
        Row(f"distilled, T = {BEST:g}: word errors", student["words"], 10.7),
        Row("on labels, as the student: word errors", of["controls"]["words"]),
        Row("part of the ensemble's gain in frames that the student keeps", [100 * one for one in kept], 86.0),
        *(Row(f"distilled, T = {t:g}: frames", found[t]["students"]["frames"]) for t in temperatures if t != BEST),
        *(Row(f"distilled, T = {t:g}: word errors", found[t]["students"]["words"]) for t in temperatures if t != BEST),
    ]
    claims = [
        above("ensemble above single, frames", together["frames"] * len(single["frames"]), single["frames"]),
        above("distilled above single, frames", student["frames"], single["frames"]),
        above(
            "distilled above labels with the same views and steps, frames", student["frames"], of["controls"]["frames"]
        ),
        Claim(f"more than {KEPT:.0%} of the ensemble's gain is transferred", [100 * one for one in kept], 100 * KEPT),
        above("distilled makes no more word errors than single", single["words"], student["words"], least=-1e-9),
    ]
    series = {"distilled": [(t, found[t]["students"]["frames"]) for t in temperatures]}
    lines = (
        [Lines("Frames against T", "temperature", "frame accuracy, %", series, True)] if len(temperatures) > 1 else []
    )
    return Findings(rows, claims, lines)


def recognised(run: Run) -> dict[str, Any]:
    """Frame accuracy and word errors (%) of members, their mean probability, students and controls, on the test speakers."""
    every, options = evaluate.models(run), run.recipe.data.options
    test = evaluate.labelled(run, evaluate.TEST, every)
    order = np.argsort([int(key.rsplit("-", 1)[1]) for key in _keys(run)])
    of_class = workers.dataset(run, "train").all_labels()
    prior = np.log(np.bincount(of_class, minlength=len(run.manifest.classes)) + 1.0)
    said = fsdd.split_of(
        fsdd.utterances(run.recipe.data.path),
        options.get("held_out", ("theo", "yweweler")),
        options.get("validation", 5),
    )["test"]
    ends = np.cumsum([len(fsdd.places(one, options.get("every", 2))) for one in said])[:-1]

    def both(p: NDArray[np.floating]) -> tuple[float, float]:
        frames = 100 * float((p.argmax(1) == test.y).mean())
        scores = np.split((np.log(p + 1e-12) - prior)[order], ends)
        heard = [states.word(one, options.get("states", 5)) for one in scores]
        return frames, 100 * float(np.mean([a != one.digit for a, one in zip(heard, said, strict=True)]))

    found: dict[str, Any] = {}
    for kind in ("teacher", "student", "control"):
        each = [both(softmax(test.z[model.name])) for model in every if model.name.startswith(f"{kind}-")]
        found[f"{kind}s"] = {"frames": [one[0] for one in each], "words": [one[1] for one in each]}
    mean = np.mean([softmax(test.z[model.name]) for model in every if model.like_teachers], 0)
    frames, words = both(mean)
    return {**found, "ensemble": {"frames": [frames], "words": [words]}}


def _keys(run: Run) -> list[str]:
    dataset = workers.dataset(run, evaluate.TEST)
    return [key for number in range(len(dataset.shards)) for key in dataset.decoded(number).keys]

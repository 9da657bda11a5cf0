"""What stage 5 makes of generalist and specialists: their joint answers, and single networks to compare with.

`distilled` is the student once more, trained from the joint distribution of the generalist of its seed and its specialists, which
is put into the logit store as a member of its own; the paper leaves this undone. `mixture` is the control: as many experts with
a learnt gate, trained jointly, with about as many parameters and on as many samples.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdscale.files import digest
from kdscale.pipeline import logits, student
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.tracking.progress import Bars
from kdscale.training.done import finished

if TYPE_CHECKING:
    from kdscale.specialists.answers import Together

DISTILLED, MIXTURE = "distilled", "mixture"
GATE = [64]
"""Hidden widths of the mixture's gate."""


def jobs(run: Run) -> list[student.Job]:
    asked = run.recipe.specialists
    kinds = [kind for kind in (DISTILLED, MIXTURE) if asked.count and getattr(asked, _FIELD[kind])]
    return [(kind, seed) for seed in run.recipe.student.seeds for kind in kinds]


_FIELD = {DISTILLED: "distil", MIXTURE: "mixture"}


def checksum(run: Run, seed: int) -> str | None:
    """Names the joint answers of a generalist and all its specialists; None until they are finished."""
    from kdscale.pipeline import specialists

    of = student.finished_jobs(run).get(specialists.generalist(run, seed))
    done = {} if of is None else specialists.finished_ones(run, seed, of)
    if of is None or len(done) < run.recipe.specialists.count:
        return None
    return digest({"generalist": of, "specialists": done, "active": run.recipe.specialists.active})


def member_name(seed: int, checksum: str) -> str:
    """In a store of predictions: other weights, another name."""
    return f"specialists-seed-{seed}-{checksum[:12]}"


def fingerprint(run: Run, job: student.Job) -> str:
    kind, seed = job
    if kind == DISTILLED:
        parts = {"as": student.fingerprint(run, ("student", seed)), "of": checksum(run, seed)}
    else:
        parts = {"as": student.fingerprint(_of_mixture(run), ("control", seed))}
    return digest({"stage": "specialists", "kind": kind, **parts})


def _of_mixture(run: Run) -> Run:
    return Run(run.folder, derived(run.recipe, len(run.manifest.classes)))


def derived(recipe: Recipe, classes: int) -> Recipe:
    """The recipe of the mixture: its network and its epochs are the student's."""
    settings = recipe.student.model_copy(update={"model": mixture(recipe), "epochs": epochs(recipe, classes)})
    return recipe.model_copy(update={"student": settings})


def epochs(recipe: Recipe, classes: int) -> float:
    """Of the mixture: as many samples as the generalist and all its specialists see, classes taken to be equally frequent."""
    asked = recipe.specialists
    own = min(1.0, asked.classes / classes)
    return recipe.student.epochs + asked.count * asked.epochs * own / asked.share


def mixture(recipe: Recipe) -> ModelSpec:
    """As many experts as there are networks: the generalist and its specialists."""
    model = recipe.student.model.model_dump(mode="json")
    return ModelSpec(name="mixture", model=model, count=1 + recipe.specialists.count, gate=GATE)


def model(recipe: Recipe, kind: str) -> ModelSpec:
    return mixture(recipe) if kind == MIXTURE else recipe.student.model


def sizes(run: Run) -> dict[str, dict[str, Any]]:
    """Parameters and bytes of float32 weights: of a generalist with all its specialists, and of the mixture."""
    from kdscale.models import zoo
    from kdscale.pipeline import specialists

    recipe, shape, classes = run.recipe, run.manifest.sample.shape, len(run.manifest.classes)
    one = specialists.spec(run, list(range(recipe.specialists.classes)))
    specs = {specialists.NAME: (one, recipe.specialists.count), MIXTURE: (mixture(recipe), 1)}
    found = {}
    for name, (spec, times) in specs.items():
        if name == MIXTURE and not recipe.specialists.mixture:
            continue
        count = times * zoo.parameters(zoo.build(spec, shape, classes, 0))
        if name == specialists.NAME:
            base = student.model(recipe, recipe.specialists.generalist)
            count += zoo.parameters(zoo.build(base, shape, classes, 0))
        found[name] = {"name": spec.name, "parameters": count, "bytes": 4 * count}
    return found


def finished_jobs(run: Run) -> dict[student.Job, str]:
    """The sha256 of the weights of each job that is finished."""
    found: dict[student.Job, str] = {}
    for job in jobs(run):
        mark = fingerprint(run, job)
        there = run.locate(student.job_folder(run, job), mark)
        if there is not None and (weights := finished(there, mark)) is not None:
            found[job] = weights
    return found


def missing(run: Run) -> list[str]:
    done = finished_jobs(run)
    return [student.job_name(job) for job in jobs(run) if job not in done]


def take_back(run: Run) -> None:
    for job in jobs(run):
        run.take_back(student.job_folder(run, job), fingerprint(run, job))


def work(run: Run, bars: Bars) -> None:
    """Train what is missing."""
    done = finished_jobs(run)
    todo = {job: fingerprint(run, job) for job in jobs(run) if job not in done}
    for seed in [seed for kind, seed in todo if kind == DISTILLED]:
        _label(run, seed, bars)
    for kind in (DISTILLED, MIXTURE):
        marks = {job: mark for job, mark in todo.items() if job[0] == kind}
        if marks:
            groups, submit = student.queue(
                _of_mixture(run) if kind == MIXTURE else run, bars, marks, run.owner("specialists")
            )
            for start in submit.values():
                start()
            groups.run()
            groups.tick()


def _label(run: Run, seed: int, bars: Bars) -> None:
    """Put the joint answers on the training split into the store."""
    from kdscale import cluster

    store = logits.open_store(run)
    name = checksum(run, seed)
    assert name is not None, "all specialists are trained by now"
    shards = range(len(run.manifest.splits[logits.SPLIT]))
    views = range(run.recipe.logits.views)
    there = store.listing()
    names = [shard.name for shard in run.manifest.splits[logits.SPLIT]]
    left = [
        (n, view) for view in views for n in shards if not there.holds(names, view, member_name(seed, name), name)[n]
    ]
    asked = run.recipe.specialists
    needs = cluster.needs(asked.cpus, asked.gpus)
    labelled: list[int] = []
    tasks = cluster.Tasks(lambda: bars.show("specialists: blocks", len(labelled), len(left)), run.owner("specialists"))
    for number, view in left:
        tasks.submit(
            f"answers of generalist and specialists, seed {seed}",
            label,
            run.folder,
            run.recipe,
            seed,
            name,
            number,
            view,
            needs,
            needs=needs,
            done=labelled.append,
        )
    tasks.run()
    store.commits.compact()


def label(folder: Path, recipe: Recipe, seed: int, name: str, number: int, view: int, needs: Any) -> int:
    """On a worker: label a training shard by the joint answers."""
    from kdscale.logits.producer import label_shard
    from kdscale.pipeline import workers
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    whole = together(run, seed, device)
    pixels, dataset = workers.shared_pixels(run, device), workers.dataset(run, logits.SPLIT)
    label_shard(logits.open_store(run), dataset, number, view, member_name(seed, name), name, whole, pixels)
    return number


def together(run: Run, seed: int, device: torch.device) -> "Together":
    """The generalist of a seed with all its specialists, as one function from samples to log-probabilities."""
    from kdscale.files import read_json
    from kdscale.pipeline import specialists, workers
    from kdscale.specialists.answers import Together
    from kdscale.specialists.sets import ClassSets
    from kdscale.training.done import DONE

    of = student.finished_jobs(run)[specialists.generalist(run, seed)]
    found = specialists.sets(run, seed, of)
    assert found is not None
    done = specialists.finished_ones(run, seed, of)
    networks, shifts = [], []
    for number, own in enumerate(found):
        at = run.folder / specialists.specialist_folder(run, seed, number)
        networks.append(workers.predictor(at, done[number], specialists.spec(run, own), run.manifest, device))
        shifts.append(float((read_json(at / DONE) or {})["shift"]))
    classes = ClassSets.of(found, len(run.manifest.classes), device)
    generalist = specialists.predictor(run, seed, of, device)
    return Together(generalist, networks, shifts, classes, run.recipe.specialists.active)

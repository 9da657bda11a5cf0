"""Stage 5, evaluate: every model labels the test and validation splits; the numbers become results.json.

Each split has a store of its own, so that what is asked later (other fusion rules, say) needs no model.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdscale.files import digest, read_json, write_json
from kdscale.logits.dense import Dense
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.rows import Logits
from kdscale.logits.store import Store
from kdscale.pipeline import joint, logits, specialists, speed, student, teachers, unified
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.tracking import evaluation
from kdscale.tracking.identity import FOLDER
from kdscale.tracking.job import tracker
from kdscale.tracking.metrics import merge
from kdscale.tracking.progress import Bars

if TYPE_CHECKING:
    from kdscale.cluster import Needs
    from kdscale.pipeline.measuring import Labelled

NAME = "evaluate"
TEST, VALIDATION = "test", "validation"
RESULTS = "results.json"
METRICS = "metrics.jsonl"
VERSION = 4
"""Of what is measured: results of another version are made again."""
FUSION = "fusion.json"
"""The table of fusion rules that was asked for, if any was (`comparing`)."""


@dataclass(frozen=True)
class Trained:
    """A finished model."""

    name: str
    folder: Path
    checksum: str
    spec: ModelSpec
    like_teachers: bool = False
    """Whether it needs what a teacher needs."""
    together: int | None = None
    """Of a generalist with its specialists: its seed. `folder` and `spec` are then the generalist's."""

    @property
    def member(self) -> str:
        """Its name in the store of predictions: other weights, another name."""
        return f"{self.name}-{self.checksum[:12]}"


def models(run: Run) -> list[Trained]:
    recipe = run.recipe
    members = [
        Trained(f"teacher-seed-{seed}", teachers.member_folder(run, seed), checksum, recipe.teachers.model, True)
        for seed, checksum in teachers.members(run).items()
    ]
    for job, checksum in student.finished_jobs(run).items():
        jointly = job[0] == joint.KIND
        spec = student.model(recipe, job[0])
        members.append(
            Trained(student.job_name(job), run.folder / student.job_folder(run, job), checksum, spec, jointly)
        )
    return [*members, *_beyond_students(run)]


def _beyond_students(run: Run) -> list[Trained]:
    """Each generalist with its specialists, and the single networks that are compared with them."""
    recipe = run.recipe
    if not recipe.specialists.count:
        return []
    found = []
    for seed in recipe.student.seeds:
        of = specialists.generalist(run, seed)
        if (checksum := unified.checksum(run, seed)) is not None:
            at, spec = run.folder / student.job_folder(run, of), student.model(recipe, of[0])
            found.append(Trained(f"{specialists.NAME}-seed-{seed}", at, checksum, spec, together=seed))
    for job, checksum in unified.finished_jobs(run).items():
        at = run.folder / student.job_folder(run, job)
        found.append(Trained(student.job_name(job), at, checksum, unified.model(recipe, job[0])))
    return found


def splits(run: Run) -> list[str]:
    """The splits that models label: the test split, and the validation split if the dataset has one."""
    return [split for split in (TEST, VALIDATION) if run.manifest.splits.get(split)]


def store_name(split: str) -> str:
    """Where the store of a split lies, relative to the run."""
    return NAME if split == TEST else f"{NAME}-{split}"


def fingerprint(run: Run) -> str:
    recipe = run.recipe
    return digest(
        {
            "stage": "evaluate",
            "version": VERSION,
            "dataset": run.manifest.fingerprint,
            "models": [
                *(teachers.fingerprint(run, seed) for seed in recipe.teachers.seeds),
                *(student.fingerprint(run, job) for job in student.jobs(run)),
                *_specialists_fingerprints(run),
            ],
            "evaluate": recipe.evaluate.model_dump(),
            "fusion": [recipe.fusion.rule, recipe.fused_seeds, logits.weights(recipe)],
        }
    )


def _specialists_fingerprints(run: Run) -> list[str]:
    if not run.recipe.specialists.count:
        return []
    trained = student.finished_jobs(run)
    of = {seed: trained.get(specialists.generalist(run, seed)) for seed in run.recipe.student.seeds}
    numbers = range(run.recipe.specialists.count)
    each = [
        specialists.of_specialist(run, seed, number, checksum) for seed, checksum in of.items() for number in numbers
    ]
    return [*each, str(run.recipe.specialists.active), *(unified.fingerprint(run, job) for job in unified.jobs(run))]


def missing(run: Run) -> list[str]:
    results = read_json(run.folder / RESULTS)
    return [] if results is not None and results["fingerprint"] == fingerprint(run) else [RESULTS]


def work(run: Run, bars: Bars) -> None:
    from kdscale import cluster
    from kdscale.pipeline import health

    start = time.monotonic()
    recipe = run.recipe
    for split in splits(run):
        info = StoreInfo(
            dataset=run.manifest.fingerprint,
            split=split,
            classes=len(run.manifest.classes),
            codec=Dense("float32").describe(),
            views="plain",
        )
        Store.create(run.claim(store_name(split), digest(info.model_dump())), info)
    labelled: list[str] = []
    every = models(run)

    def tick() -> None:
        bars.show("evaluate: models", len(labelled), len(every))

    tasks = cluster.Tasks(tick, run.owner(NAME))
    for model in every:
        cpus, gpus = (
            (recipe.teachers.cpus, recipe.teachers.gpus)
            if model.like_teachers
            else (recipe.student.cpus, recipe.student.gpus)
        )
        needs = cluster.needs(cpus, gpus)
        tasks.submit(
            f"evaluate {model.name}",
            predict,
            run.folder,
            recipe,
            model,
            needs,
            needs=needs,
            done=labelled.append,
        )
    stored: list[dict[str, Any] | None] = []
    needs = cluster.needs(recipe.teachers.cpus, 0)
    tasks.submit("fidelity of the store", health.measured, run.folder, recipe, needs=needs, done=stored.append)
    tasks.run()
    tick()
    results = measure(run, every)
    if stored[0] is not None:
        results["store"] = stored[0]
    if (speeds := _speed(run, every)) is not None:
        results["speed"] = speeds
    results |= run.accounts.totals(NAME, fingerprint(run), time.monotonic() - start)
    _keep_earlier(run)
    sources = [model.folder / METRICS for model in every if model.together is None]
    sources += [path / METRICS for path in specialists.folders(run)]
    merge(run.folder, sources, run.folder / METRICS)
    _show(run, results)
    write_json(run.folder / RESULTS, results)  # last: from here on the stage is done


def _show(run: Run, results: dict[str, Any]) -> None:
    """Log what W&B shows of the results."""
    own = run.folder / FOLDER / NAME
    with tracker(run.folder, run.recipe, own, NAME, NAME, results["fingerprint"], {})(0) as record:
        for number, row in enumerate(evaluation.rows(results["splits"])):
            record.log(number, **row)
        record.summary(**evaluation.summary(results["splits"]))


def _speed(run: Run, every: list[Trained]) -> dict[str, Any] | None:
    """Latency and throughput of ensemble and student, measured on a worker unless they are known."""
    from kdscale import cluster

    recipe = run.recipe
    by_name = {model.name: model for model in every}
    members = [by_name[f"teacher-seed-{seed}"] for seed in recipe.fused_seeds if f"teacher-seed-{seed}" in by_name]
    pupil = by_name.get(f"student-seed-{recipe.student.seeds[0]}")
    if not members or pupil is None:
        return None
    needs = cluster.needs(recipe.student.cpus, recipe.student.gpus)
    name = speed.fingerprint(run, members, pupil, needs)
    if (known := speed.kept(run, name)) is not None:
        return known
    measured: list[dict[str, Any]] = []
    tasks = cluster.Tasks(lambda: None, run.owner(NAME))
    tasks.submit(
        "measure the speed of ensemble and student",
        speed.measure,
        run.folder,
        recipe,
        name,
        members,
        pupil,
        needs,
        needs=needs,
        done=measured.append,
    )
    tasks.run()
    return measured[0] if measured else None


def predict(folder: Path, recipe: Recipe, model: Trained, needs: "Needs") -> str:
    """On a worker: label the splits by one model."""
    from kdscale.logits.producer import Predict, label_shard
    from kdscale.pipeline import workers
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    predictor: Predict
    if model.together is not None:
        predictor = unified.together(run, model.together, device)
    else:
        predictor = workers.predictor(model.folder, model.checksum, model.spec, run.manifest, device)
    pixels = workers.shared_pixels(run, device)
    for split in splits(run):
        store = Store.open(folder / store_name(split), run.manifest.fingerprint, split)
        dataset = workers.dataset(run, split)
        for number in range(len(dataset.shards)):
            label_shard(store, dataset, number, 0, model.member, model.checksum, predictor, pixels)
    return model.name


def measure(run: Run, every: list[Trained]) -> dict[str, Any]:
    """The results, but for the seconds: a function of the models and the splits alone."""
    from kdscale.pipeline import gains, measuring

    read = {split: labelled(run, split, every) for split in splits(run)}
    of_test = measuring.measure(run.recipe, read[TEST], read.get(VALIDATION))
    if run.recipe.specialists.count:
        of_test["gains"] = gains.measure(run, read[TEST])
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "fingerprint": fingerprint(run),
        "dataset": {
            "fingerprint": run.manifest.fingerprint,
            "classes": run.manifest.classes,
            "samples": {split: run.manifest.samples(split) for split in run.manifest.splits},
        },
        "splits": {TEST: of_test},
        "models": _sizes(run, every),
    }


def labelled(run: Run, split: str, every: list[Trained]) -> "Labelled":
    """The labels of a split and what these models say of it, joined by key."""
    from kdscale.pipeline.measuring import Labelled

    store = Store.open(run.folder / store_name(split), run.manifest.fingerprint, split)
    return Labelled(labels(run, split), {model.name: read(run, store, split, model) for model in every})


def labels(run: Run, split: str) -> NDArray[np.int64]:
    """(N,) the labels of a split."""
    from kdscale.pipeline import workers

    dataset = workers.dataset(run, split)
    return dataset.all_labels()


def shares(recipe: Recipe) -> list[float]:
    """The weights of the members that count, relative to each other."""
    return [recipe.fusion.weights.get(seed, 1.0) for seed in recipe.fused_seeds]


def _sizes(run: Run, every: list[Trained]) -> dict[str, Any]:
    """Parameters and bytes of float32 weights, of one teacher, of the ensemble and of the student."""
    from kdscale.models import zoo

    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)
    sizes: dict[str, Any] = {}
    for name, spec in (("teacher", run.recipe.teachers.model), ("student", student.model(run.recipe))):
        count = zoo.parameters(zoo.build(spec, shape, classes, 0))
        sizes[name] = {"name": spec.name, "parameters": count, "bytes": 4 * count}
    members = run.recipe.teachers.count
    sizes["ensemble"] = {k: members * sizes["teacher"][k] for k in ("parameters", "bytes")}
    if run.recipe.specialists.count:
        sizes |= unified.sizes(run)
    if networks := run.recipe.joint.networks:
        sizes[joint.KIND] = {"name": "average", **{k: networks * sizes["teacher"][k] for k in ("parameters", "bytes")}}
    return sizes


def read(run: Run, store: Store, split: str, model: Trained) -> NDArray[np.float32]:
    """(N, C) what a store has of a model, joined to the split's rows by key."""
    from kdscale.logits.reader import member_rows
    from kdscale.pipeline import workers

    dataset = workers.dataset(run, split)
    parts = []
    for number, shard in enumerate(dataset.shards):
        keys = dataset.decoded(number).keys
        rows = member_rows(store, Slot(shard.name, 0, model.member), model.checksum, keys, 1.0)
        assert isinstance(rows, Logits)
        parts.append(rows.values)
    return np.concatenate(parts)


def _keep_earlier(run: Run) -> None:
    """Set the results and report of an earlier recipe aside."""
    earlier = read_json(run.folder / RESULTS)
    if earlier is None or earlier["fingerprint"] == fingerprint(run):
        return
    aside = run.folder / "previous" / f"results-{earlier['fingerprint'][:12]}"
    aside.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, METRICS, FUSION, "report"):
        if (run.folder / name).exists() and not (aside / name).exists():
            (run.folder / name).rename(aside / name)

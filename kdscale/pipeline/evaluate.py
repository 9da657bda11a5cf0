"""Stage 5, evaluate: every model labels the test split into a store of its own; the numbers become results.json."""

import itertools
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
from kdscale.pipeline import logits, student, teachers
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.tracking.metrics import merge
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file

if TYPE_CHECKING:
    from kdscale.cluster import Needs
    from kdscale.data.dataset import Dataset

NAME = "evaluate"
SPLIT = "test"
RESULTS = "results.json"
METRICS = "metrics.jsonl"
MOST_SUBSETS = 32
"""Subsets of members that an ensemble size is averaged over."""
MOST_CONFUSION = 100
"""Classes up to which the confusion matrix is kept."""


@dataclass(frozen=True)
class Trained:
    """A finished model."""

    name: str
    folder: Path
    checksum: str
    spec: ModelSpec

    @property
    def member(self) -> str:
        """Its name in the store of predictions: other weights, another name."""
        return f"{self.name}-{self.checksum[:12]}"


def models(run: Run) -> list[Trained]:
    recipe = run.recipe
    members = [
        Trained(f"teacher-seed-{seed}", teachers.member_folder(run, seed), checksum, recipe.teachers.model)
        for seed, checksum in teachers.members(run).items()
    ]
    students = [
        Trained(student.job_name(job), run.folder / student.job_folder(run, job), checksum, recipe.student.model)
        for job, checksum in student.finished_jobs(run).items()
    ]
    return members + students


def fingerprint(run: Run) -> str:
    recipe = run.recipe
    return digest(
        {
            "stage": "evaluate",
            "dataset": run.manifest.fingerprint,
            "models": [
                *(teachers.fingerprint(run, seed) for seed in recipe.teachers.seeds),
                *(student.fingerprint(run, job) for job in student.jobs(run)),
            ],
            "evaluate": recipe.evaluate.model_dump(),
            "fusion": [recipe.fusion.rule, recipe.fused_seeds, logits.weights(recipe)],
        }
    )


def missing(run: Run) -> list[str]:
    results = read_json(run.folder / RESULTS)
    return [] if results is not None and results["fingerprint"] == fingerprint(run) else [RESULTS]


def work(run: Run, bars: Bars) -> None:
    from kdscale import cluster
    from kdscale.tracking.wandb import log_results

    start = time.monotonic()
    recipe = run.recipe
    info = StoreInfo(
        dataset=run.manifest.fingerprint,
        split=SPLIT,
        classes=len(run.manifest.classes),
        codec=Dense("float32").describe(),
        views="plain",
    )
    folder = run.claim(NAME, digest(info.model_dump()))
    Store.create(folder, info)
    labelled: list[str] = []
    every = models(run)

    def tick() -> None:
        bars.show("evaluate: models", len(labelled), len(every))

    tasks = cluster.Tasks(tick, stop_file(run.folder).exists)
    for model in every:
        cpus, gpus = (
            (recipe.teachers.cpus, recipe.teachers.gpus)
            if model.name.startswith("teacher")
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
    tasks.run()
    tick()
    results = measure(run, every)
    results["seconds"] = {**run.seconds(), NAME: round(time.monotonic() - start, 3)}
    _keep_earlier(run)
    sources = [model.folder / METRICS for model in every]
    merge(run.folder, sources, run.folder / METRICS)
    log_results(recipe.tracking.wandb, run.folder, recipe.name, results["fingerprint"], results["splits"])
    write_json(run.folder / RESULTS, results)  # last: from here on the stage is done


def predict(folder: Path, recipe: Recipe, model: Trained, needs: "Needs") -> str:
    """On a worker: label the test split by one model."""
    from kdscale.logits.producer import label_shard
    from kdscale.pipeline import workers
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    predictor = workers.predictor(model.folder, model.checksum, model.spec, run.manifest, device)
    store = Store.open(folder / NAME, run.manifest.fingerprint, SPLIT)
    dataset, pixels = workers.dataset(run, SPLIT), workers.shared_pixels(run, device)
    for number in range(len(dataset.shards)):
        label_shard(store, dataset, number, 0, model.member, model.checksum, predictor, pixels)
    return model.name


def measure(run: Run, every: list[Trained]) -> dict[str, Any]:
    """The results, but for the seconds: a function of the models and the test split alone."""
    from kdscale.data.dataset import Dataset

    dataset = Dataset(run.dataset, SPLIT, run.manifest)
    y = np.concatenate([dataset.decoded(number).y for number in range(len(dataset.shards))])
    store = Store.open(run.folder / NAME, run.manifest.fingerprint, SPLIT)
    z = {model.name: _read(store, dataset, model) for model in every}
    members = {seed: z[f"teacher-seed-{seed}"] for seed in run.recipe.teachers.seeds}
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "fingerprint": fingerprint(run),
        "dataset": {
            "fingerprint": run.manifest.fingerprint,
            "classes": run.manifest.classes,
            "samples": {split: run.manifest.samples(split) for split in run.manifest.splits},
        },
        "splits": {SPLIT: _split(run, y, members, z)},
        "models": _sizes(run, every),
    }


def _split(
    run: Run, y: NDArray[np.int64], members: dict[int, NDArray[np.float32]], z: dict[str, NDArray[np.float32]]
) -> dict[str, Any]:
    from kdscale.training import metrics

    bins = run.recipe.evaluate.bins
    chosen = {seed: members[seed] for seed in run.recipe.fused_seeds}
    weights = [run.recipe.fusion.weights.get(seed, 1.0) for seed in chosen]
    ensemble = fuse(run.recipe.fusion.rule, list(chosen.values()), weights)
    reference = ensemble.argmax(1)
    split: dict[str, Any] = {
        "teachers": [
            {"seed": seed, **metrics.measure(metrics.softmax(z_m), y, reference, bins)} for seed, z_m in members.items()
        ],
        "ensemble": metrics.measure(ensemble, y, reference, bins),
    }
    shown = {"ensemble": ensemble}
    for kind in ("student", "control"):
        runs = []
        for job in student.jobs(run):
            if job[0] == kind:
                p = metrics.softmax(z[student.job_name(job)])
                shown.setdefault(kind, p)
                runs.append({"seed": job[1], **metrics.measure(p, y, reference, bins)})
        if runs:
            split[kind] = {**_means(runs), "runs": runs}
    split["by_size"] = _by_size(run, y, list(chosen.values()), weights)
    split["reliability"] = {name: metrics.reliability(p, y, bins) for name, p in shown.items()}
    if len(run.manifest.classes) <= MOST_CONFUSION:
        split["confusion"] = {name: metrics.confusion(p, y) for name, p in shown.items()}
    return split


def fuse(rule: str, members: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float64]:
    """(N, C) the ensemble's probabilities at T = 1; weights are relative."""
    import torch

    from kdscale.ensemble.fusion import RULES

    share = torch.tensor(weights, dtype=torch.float64)
    z = torch.from_numpy(np.stack(members)).double()
    fused: NDArray[np.float64] = RULES[rule](z, 1.0, share / share.sum()).numpy()
    return fused


def _by_size(
    run: Run, y: NDArray[np.int64], members: list[NDArray[np.float32]], weights: list[float]
) -> list[dict[str, Any]]:
    """Accuracy and NLL of ensembles of 1 to all members, over all subsets or as many seeded random ones."""
    from kdscale.seeds import generator
    from kdscale.training import metrics

    rows = []
    for size in range(1, len(members) + 1):
        subsets = list(itertools.islice(itertools.combinations(range(len(members)), size), 1000))
        if len(subsets) > MOST_SUBSETS:
            random = generator(run.recipe.seed, 3, size)
            subsets = [tuple(random.permutation(len(members))[:size]) for _ in range(MOST_SUBSETS)]
        measured = []
        for subset in subsets:
            p = fuse(run.recipe.fusion.rule, [members[m] for m in subset], [weights[m] for m in subset])
            measured.append(metrics.measure(p, y, p.argmax(1), run.recipe.evaluate.bins))
        row: dict[str, Any] = {"members": size, "subsets": len(subsets)}
        for name in ("accuracy", "nll"):
            values = [m[name] for m in measured]
            row[name] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
        rows.append(row)
    return rows


def _means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    if len(runs) == 1:
        return {name: value for name, value in runs[0].items() if name != "seed"}
    names = [name for name in runs[0] if name not in ("seed", "n")]
    return {**{name: float(np.mean([r[name] for r in runs])) for name in names}, "n": runs[0]["n"]}


def _sizes(run: Run, every: list[Trained]) -> dict[str, Any]:
    """Parameters and bytes of float32 weights, of one teacher, of the ensemble and of the student."""
    from kdscale.models import zoo

    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)
    sizes: dict[str, Any] = {}
    for name, spec in (("teacher", run.recipe.teachers.model), ("student", run.recipe.student.model)):
        count = zoo.parameters(zoo.build(spec, shape, classes, 0))
        sizes[name] = {"name": spec.name, "parameters": count, "bytes": 4 * count}
    members = run.recipe.teachers.count
    sizes["ensemble"] = {k: members * sizes["teacher"][k] for k in ("parameters", "bytes")}
    return sizes


def _read(store: Store, dataset: "Dataset", model: Trained) -> NDArray[np.float32]:
    """(N, C) a model's logits of the test split, joined to the dataset's rows by key."""
    from kdscale.logits.reader import member_rows

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
    for name in (RESULTS, METRICS, "report"):
        if (run.folder / name).exists() and not (aside / name).exists():
            (run.folder / name).rename(aside / name)

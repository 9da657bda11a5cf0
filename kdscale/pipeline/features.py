"""Stacking of penultimate features, for `kdscale evaluate --fusion`: members compute them, a worker fits the readout.

The features of each split lie in a store of their own, as the logits do; the driver sees nothing but the finished numbers,
which are kept beside them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdscale.errors import UserError
from kdscale.files import digest, read_json, write_json
from kdscale.logits.dense import Dense
from kdscale.logits.records import StoreInfo
from kdscale.logits.store import Store
from kdscale.pipeline import evaluate
from kdscale.pipeline.evaluate import TEST, VALIDATION, Trained
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking.progress import Bars

if TYPE_CHECKING:
    from kdscale.cluster import Needs

NAME = "features"
ROW = "stacked.json"
VERSION = 1
MOST = 1 << 28
"""Numbers that the readout is fitted to at most: 2 GB in float64."""


def store_name(split: str) -> str:
    """Where the features of a split lie, relative to the run."""
    return NAME if split == TEST else f"{NAME}-{split}"


def members(run: Run) -> list[Trained]:
    """The members that count in the ensemble."""
    wanted = {f"teacher-seed-{seed}" for seed in run.recipe.fused_seeds}
    return [model for model in evaluate.models(run) if model.name in wanted]


def fingerprint(run: Run) -> str:
    return digest(
        {
            "stage": NAME,
            "version": VERSION,
            "dataset": run.manifest.fingerprint,
            "members": [model.member for model in members(run)],
            "ensemble": [run.recipe.fusion.rule, evaluate.shares(run.recipe)],
            "bins": run.recipe.evaluate.bins,
        }
    )


def recorded(run: Run) -> dict[str, Any] | None:
    """What the stacked features come to on the test split, if that was measured."""
    kept = read_json(run.folder / store_name(TEST) / ROW)
    return kept["row"] if kept is not None and kept["fingerprint"] == fingerprint(run) else None


def why_not(run: Run) -> str | None:
    """Why features cannot be stacked here; None if they can."""
    try:
        width = _width(run)
    except UserError as error:
        return str(error)
    if VALIDATION not in evaluate.splits(run):
        return "there is no validation split to fit on (data.validation)"
    count = len(run.recipe.fused_seeds) * width * max(run.manifest.samples(split) for split in evaluate.splits(run))
    if count > MOST:
        return (
            f"the members' {width:,} features a sample take {8 * count / 1e9:.3g} GB together, more than a fit is given"
        )
    return None


def work(run: Run, connect: Callable[[], AbstractContextManager[None]], bars: Bars) -> None:
    """Have the members compute their features and a worker fit and measure the readout, unless that was done."""
    if recorded(run) is not None or why_not(run) is not None:
        return
    from kdscale import cluster

    for split in evaluate.splits(run):
        info = StoreInfo(
            dataset=run.manifest.fingerprint,
            split=split,
            classes=_width(run),
            codec=Dense("float32").describe(),
            views="features",
        )
        Store.create(run.claim(store_name(split), digest(info.model_dump())), info)
    every = members(run)
    done: list[str] = []

    def tick() -> None:
        bars.show("features: members", len(done), len(every))

    with connect():
        needs = cluster.needs(run.recipe.teachers.cpus, run.recipe.teachers.gpus)
        tasks = cluster.Tasks(tick, run.owner("evaluate"))
        for model in every:
            tasks.submit(
                f"features {model.name}", compute, run.folder, run.recipe, model, needs, needs=needs, done=done.append
            )
        tasks.run()
        rows: list[dict[str, Any]] = []
        needs = cluster.needs(run.recipe.teachers.cpus, 0)
        tasks = cluster.Tasks(tick, run.owner("evaluate"))
        tasks.submit(
            "features: readout", stack, run.folder, run.recipe, every, needs.cpus, needs=needs, done=rows.append
        )
        tasks.run()
    write_json(run.folder / store_name(TEST) / ROW, {"fingerprint": fingerprint(run), "row": rows[0]})


def compute(folder: Path, recipe: Recipe, model: Trained, needs: "Needs") -> str:
    """On a worker: one member's features of the splits."""
    from kdscale.logits.producer import label_shard
    from kdscale.models.features import Penultimate
    from kdscale.pipeline import workers
    from kdscale.training.engine import in_format, use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    predictor = workers.predictor(model.folder, model.checksum, model.spec, run.manifest, device)
    penultimate = Penultimate(predictor.model)
    pixels = workers.shared_pixels(run, device)
    for split in evaluate.splits(run):
        store = Store.open(folder / store_name(split), run.manifest.fingerprint, split)
        dataset = workers.dataset(run, split)
        for number in range(len(dataset.shards)):
            label_shard(
                store,
                dataset,
                number,
                0,
                model.member,
                model.checksum,
                lambda x: penultimate(in_format(x, predictor.format)),
                pixels,
            )
    return model.name


def stack(folder: Path, recipe: Recipe, every: list[Trained], cpus: int) -> dict[str, Any]:
    """On a worker: fit the readout on the validation split; what it comes to on the test split."""
    import torch

    from kdscale.ensemble import weighing
    from kdscale.pipeline.measuring import fuse
    from kdscale.training import metrics
    from kdscale.training.engine import use_device

    use_device(cpus, 0)
    run = Run(folder, recipe)
    outputs = evaluate.labelled(run, TEST, every).members(recipe.fused_seeds)
    usual = fuse(recipe.fusion.rule, outputs.logits, evaluate.shares(recipe)).argmax(1)
    x = {}
    for split in (VALIDATION, TEST):
        store = Store.open(folder / store_name(split), run.manifest.fingerprint, split)
        x[split] = torch.from_numpy(np.stack([evaluate.read(run, store, split, model) for model in every]))
    y = torch.from_numpy(evaluate.labels(run, VALIDATION))
    readout = weighing.stack_features(x[VALIDATION], y, len(run.manifest.classes))
    p = metrics.softmax(readout(x[TEST]).numpy())
    return {"features": x[TEST].shape[2], **metrics.measure(p, outputs.y, usual, recipe.evaluate.bins)}


def _width(run: Run) -> int:
    from kdscale.models import features, zoo

    shape, classes = run.manifest.sample.shape, len(run.manifest.classes)
    return features.width(zoo.build(run.recipe.teachers.model, shape, classes, 0), shape)

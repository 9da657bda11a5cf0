"""Stage 3, logits: finished members label the training shards into the store, while others still train."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.files import digest
from kdscale.logits import codecs
from kdscale.logits.codecs import Codec
from kdscale.logits.commits import Listing
from kdscale.logits.places import exists, open_place
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.store import FILE, Store
from kdscale.pipeline import teachers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking.identity import FOLDER
from kdscale.tracking.job import tracker
from kdscale.tracking.progress import Bars
from kdscale.tracking.throughput import Throughput

if TYPE_CHECKING:
    from kdscale.cluster import Tasks

NAME = "logits"
STORE = "store"
"""Name of the stage's own record."""
SPLIT = "train"
ROWS_A_TASK = 2048
"""Rows that a task labels at least, so that small shards do not drown in Ray's overhead."""
KEY_BYTES = 20
"""Of a row's key, about."""


def codec(recipe: Recipe) -> Codec:
    """The codec that a recipe asks for, serving the student's temperature if it names none."""
    asked = recipe.logits
    served = asked.temperatures or [recipe.student.temperature]
    match asked.codec:
        case "topk":
            return codecs.make("topk", k=asked.k, temperatures=served)
        case "sampled":
            return codecs.make("sampled", draws=asked.draws, temperature=served[0])
        case _:
            return codecs.make("dense", dtype=asked.dtype)


def store_info(run: Run) -> StoreInfo:
    recipe = run.recipe
    made = {"views": recipe.data.views.model_dump(), "seed": recipe.seed} if recipe.logits.views > 1 else "plain"
    views = {"made": made, "normalize": recipe.data.normalize}
    return StoreInfo(
        dataset=run.manifest.fingerprint,
        split=SPLIT,
        classes=len(run.manifest.classes),
        codec=codec(recipe).describe(),
        views=digest(views),
    )


def fingerprint(run: Run) -> str:
    return digest({"stage": "logits", **store_info(run).model_dump()})


def slots(run: Run) -> list[Slot]:
    """Every block that the recipe asks for."""
    return [
        Slot(shard.name, view, member_name(seed))
        for seed in run.recipe.teachers.seeds
        for shard in run.manifest.splits[SPLIT]
        for view in range(run.recipe.logits.views)
    ]


def where(run: Run) -> str | Path:
    """Where the run's store lies. One outside the run directory is named by what is in it, so that runs may share it."""
    if run.recipe.logits.path is None:
        return run.folder / NAME
    content = digest([fingerprint(run), teachers.fingerprint(run, -1)])
    return f"{run.recipe.logits.path}/{run.recipe.name}-{content[:12]}"


def open_store(run: Run) -> Store:
    """The run's store.

    Raises:
        UserError: there is none yet, or it is of another dataset.
    """
    return Store.open(where(run), run.manifest.fingerprint, SPLIT)


def check_store(run: Run) -> None:
    """Refuse a store that lies in the run directory and was made from another dataset or split."""
    if (run.folder / NAME / FILE).exists():
        Store.open(run.folder / NAME, run.manifest.fingerprint, SPLIT)


def listing(run: Run) -> Listing:
    """The commit records of the store that the recipe asks for, wherever it lies; none if there is no store yet.

    Raises:
        UserError: the store in the run directory was made from another dataset or split.
    """
    check_store(run)
    place = where(run) if run.recipe.logits.path else run.locate(NAME, fingerprint(run))
    if place is None or not exists(place, FILE):
        return Listing()
    return Store.open(place, run.manifest.fingerprint, SPLIT).listing()


def left(run: Run, there: Listing) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """(seed, view, numbers of the shards) that have no block of today's members."""
    checksums = teachers.members(run)
    shards = [shard.name for shard in run.manifest.splits[SPLIT]]
    for seed in run.recipe.teachers.seeds:
        for view in range(run.recipe.logits.views):
            checksum = checksums.get(seed)
            held = there.holds(shards, view, member_name(seed), checksum) if checksum else np.zeros(len(shards), bool)
            yield seed, view, np.flatnonzero(~held)


def missing(run: Run) -> list[str]:
    """The slots without a block of today's members.

    Raises:
        UserError: the store in the run directory was made from another dataset or split.
    """
    shards = run.manifest.splits[SPLIT]
    return [
        Slot(shards[number].name, view, member_name(seed)).path
        for seed, view, numbers in left(run, listing(run))
        for number in numbers
    ]


def check_room(run: Run) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: says how much is needed and how much is free.
    """
    shards = run.manifest.splits[SPLIT]
    rows = sum(shards[number].samples for _, _, numbers in left(run, listing(run)) for number in numbers)
    refuse_too_large(run, rows * row_bytes(run.recipe, len(run.manifest.classes)))


def refuse_too_large(run: Run, needed: float) -> None:
    """Refuse a store of so many bytes if its place has not got them."""
    place = open_place(run.recipe.logits.path or run.folder)
    free = place.free()
    if free is not None and needed > free:
        raise UserError(
            f"{place.name}: the logit store takes about {needed / 1e9:.3g} GB more and {free / 1e9:.3g} GB are free; make "
            "room, set logits.path to another place, or take a smaller codec (logits.codec topk or sampled)"
        )


def row_bytes(recipe: Recipe, classes: int) -> float:
    """Bytes of one row with its key, about."""
    return codec(recipe).bytes_per_row(classes) + KEY_BYTES


class Labelling:
    """Queues the labelling of members, counts the blocks, and compacts their records from time to time."""

    def __init__(self, run: Run, bars: Bars):
        self.run, self.bars = run, bars
        place = where(run) if run.recipe.logits.path else run.claim(NAME, fingerprint(run))
        self.store = Store.create(place, store_info(run))
        self.total = run.recipe.teachers.count * len(run.manifest.splits[SPLIT]) * run.recipe.logits.views
        self.done = 0
        self.rates = Throughput(
            tracker(run.folder, run.recipe, run.folder / FOLDER / NAME, NAME, STORE, fingerprint(run), {})
        )
        self._single = 0
        self.store.commits.compact()
        classes = self.store.info.classes
        ours, dense = (c.bytes_per_row(classes) for c in (self.store.codec, codecs.make("dense")))
        if run.recipe.logits.codec != "dense" and ours > dense:
            bars.say(
                f"logits: at {classes} classes {run.recipe.logits.codec} takes {ours:g} bytes a row and dense {dense:g}, which "
                "keeps more; consider logits.codec=dense"
            )

    def __call__(self, tasks: "Tasks", seed: int, checksum: str) -> None:
        """Queue the shards of a finished member, ahead of members that wait to be trained."""
        from kdscale import cluster

        run = self.run
        needs = cluster.needs(run.recipe.teachers.cpus, run.recipe.teachers.gpus)
        shards = run.manifest.splits[SPLIT]
        self.rates.start()
        for part in self._parts(seed, checksum):
            rows = sum(shards[number].samples for number, _ in part)
            tasks.submit(
                f"logits seed-{seed}",
                label,
                run.folder,
                run.recipe,
                seed,
                checksum,
                part,
                needs.gpus,
                needs=needs,
                owner=run.owner("logits"),
                urgent=True,
                done=partial(self._count, rows),
            )

    def _parts(self, seed: int, checksum: str) -> Iterator[list[tuple[int, int]]]:
        """The (shard number, view) that a member has still to label, a task's worth at a time."""
        shards = self.run.manifest.splits[SPLIT]
        names, member = [shard.name for shard in shards], member_name(seed)
        there = self.store.listing()
        part: list[tuple[int, int]] = []
        rows = 0
        stale = []
        for view in range(self.run.recipe.logits.views):
            held = there.holds(names, view, member, checksum)
            other = there.holds(names, view, member) & ~held
            stale += [Slot(names[number], view, member) for number in np.flatnonzero(other)]
            self.done += int(held.sum())
        if stale and self.run.recipe.logits.path:
            raise UserError(
                f"{self.store.name}: holds logits of other weights of {member}, of another run or of a member that was "
                "trained anew; give this run another name or logits.path, or remove that store"
            )
        if stale:
            self.store.retract(*stale)
        for view in range(self.run.recipe.logits.views):
            for number in np.flatnonzero(~there.holds(names, view, member, checksum)):
                part.append((int(number), view))
                rows += shards[number].samples
                if rows >= ROWS_A_TASK:
                    yield part
                    part, rows = [], 0
        if part:
            yield part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish the record of how fast the store has grown."""
        size = {"bytes": self.store.listing().totals()[2]} if kind is None and self.rates.begun else {}
        self.rates.close(**size)

    def _count(self, rows: int, blocks: int) -> None:
        self.done += blocks
        self.rates.add(self.done, blocks, rows)
        self._single += blocks
        if self._single >= self.store.commits.worth_compacting:
            self.store.commits.compact()
            self._single = 0
        self.bars.show("logits: blocks", self.done, self.total)


def work(run: Run, bars: Bars) -> None:
    from kdscale import cluster

    labelling = Labelling(run, bars)
    tasks = cluster.Tasks(lambda: bars.show("logits: blocks", labelling.done, labelling.total), run.owner("logits"))
    with labelling:
        for seed, checksum in teachers.members(run).items():
            labelling(tasks, seed, checksum)
        tasks.run()
    bars.show("logits: blocks", labelling.done, labelling.total)


def label(folder: Path, recipe: Recipe, seed: int, checksum: str, part: list[tuple[int, int]], gpus: float) -> int:
    """On a worker: label some shards by one member, committing each; the number of blocks."""
    from kdscale.logits.producer import label_shard
    from kdscale.pipeline import workers
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(recipe.teachers.cpus, gpus)
    predictor = workers.predictor(
        teachers.member_folder(run, seed), checksum, recipe.teachers.model, run.manifest, device
    )
    store = open_store(run)
    pixels = workers.shared_pixels(run, device)
    dataset = workers.dataset(run, SPLIT)
    for number, view in part:
        label_shard(store, dataset, number, view, member_name(seed), checksum, predictor, pixels)
    return len(part)


def trained(run: Run) -> dict[str, str]:
    """Every finished member, and the sha256 of its weights, by its name in the store."""
    return {member_name(seed): checksum for seed, checksum in teachers.members(run).items()}


def ensemble(run: Run) -> dict[str, str]:
    """The finished members that a target is made of, and the sha256 of their weights, by their names in the store."""
    trained = teachers.members(run)
    return {member_name(seed): trained[seed] for seed in run.recipe.fused_seeds if seed in trained}


def weights(recipe: Recipe) -> dict[str, float]:
    """The weights of members, by their names in the store; those that are not named weigh 1."""
    return {member_name(seed): weight for seed, weight in recipe.fusion.weights.items()}


def member_name(seed: int) -> str:
    return f"seed-{seed}"

"""Stage 3, logits: finished members label the training shards into the store, while others still train."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdscale.files import digest
from kdscale.logits import codecs
from kdscale.logits.codecs import Codec
from kdscale.logits.store import FILE, Slot, Store, StoreInfo
from kdscale.pipeline import teachers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file

if TYPE_CHECKING:
    from kdscale.cluster import Tasks

NAME = "logits"
SPLIT = "train"
ROWS_A_TASK = 2048
"""Rows that a task labels at least, so that small shards do not drown in Ray's overhead."""


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


def check_store(run: Run) -> None:
    """Refuse a store that lies in the run directory and was made from another dataset or split."""
    if (run.folder / NAME / FILE).exists():
        Store.open(run.folder / NAME, run.manifest.fingerprint, SPLIT)


def missing(run: Run) -> list[str]:
    """The slots without a block of today's members.

    Raises:
        UserError: the store in the run directory was made from another dataset or split.
    """
    check_store(run)
    folder = run.locate(NAME, fingerprint(run))
    if folder is None or not (folder / FILE).exists():
        return [slot.path for slot in slots(run)]
    store = Store.open(folder, run.manifest.fingerprint, SPLIT)
    checksums = {member_name(seed): checksum for seed, checksum in teachers.members(run).items()}
    return [
        slot.path
        for slot in slots(run)
        if (record := store.record(slot)) is None or record.checkpoint != checksums.get(slot.member)
    ]


class Labelling:
    """Queues the labelling of members, and counts the blocks."""

    def __init__(self, run: Run, bars: Bars):
        self.run, self.bars = run, bars
        self.store = Store.create(run.claim(NAME, fingerprint(run)), store_info(run))
        self.total = len(slots(run))
        self.done = 0

    def __call__(self, tasks: "Tasks", seed: int, checksum: str) -> None:
        """Queue the shards of a finished member, ahead of members that wait to be trained."""
        from kdscale import cluster

        run = self.run
        needs = cluster.needs(run.recipe.teachers.cpus, run.recipe.teachers.gpus)
        for part in self._parts(seed, checksum):
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
                urgent=True,
                done=self._count,
            )

    def _parts(self, seed: int, checksum: str) -> Iterator[list[tuple[int, int]]]:
        """The (shard number, view) that a member has still to label, a task's worth at a time."""
        part: list[tuple[int, int]] = []
        rows = 0
        for number, shard in enumerate(self.run.manifest.splits[SPLIT]):
            for view in range(self.run.recipe.logits.views):
                slot = Slot(shard.name, view, member_name(seed))
                record = self.store.record(slot)
                if record is not None and record.checkpoint == checksum:
                    self.done += 1
                    continue
                if record is not None:
                    self.store.retract(slot)
                part.append((number, view))
                rows += shard.samples
                if rows >= ROWS_A_TASK:
                    yield part
                    part, rows = [], 0
        if part:
            yield part

    def _count(self, blocks: int) -> None:
        self.done += blocks
        self.bars.show("logits: blocks", self.done, self.total)


def work(run: Run, bars: Bars) -> None:
    from kdscale import cluster

    labelling = Labelling(run, bars)
    tasks = cluster.Tasks(
        lambda: bars.show("logits: blocks", labelling.done, labelling.total), stop_file(run.folder).exists
    )
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
    store = Store.open(folder / NAME, run.manifest.fingerprint, SPLIT)
    pixels = workers.shared_pixels(run, device)
    dataset = workers.dataset(run, SPLIT)
    for number, view in part:
        label_shard(store, dataset, number, view, member_name(seed), checksum, predictor, pixels)
    return len(part)


def member_name(seed: int) -> str:
    return f"seed-{seed}"

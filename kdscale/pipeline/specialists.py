"""Stage 5, specialists: from each generalist's predictions class sets, and for each set a specialist, on Ray.

    RUN/specialists/seed-0/sets.json            the class sets that the generalist of this seed confuses
    RUN/specialists/seed-0/specialist-000/      a specialist: weights, metrics, status, checkpoints while it trains

Predictions are added up shard by shard wherever there is room, and specialists train in any order with no word between
them. What is made of them afterwards, the students of `unified`, belongs to the same stage.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscale.files import digest, locked, read_json, remove_temporaries, write_json
from kdscale.pipeline import student, teachers, unified
from kdscale.pipeline.run import HOW_ONLY, Run
from kdscale.recipe import ModelSpec, Recipe
from kdscale.seeds import derive
from kdscale.tracking import status
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import Status, stop_file
from kdscale.training.done import finished

if TYPE_CHECKING:
    from kdscale.specialists.covariance import Covariance, Sketch

NAME = "specialists"
SETS = "sets.json"
SPLIT = "train"
SKETCH_BEYOND = 512 << 20
"""Bytes of partial sums beyond which the covariance is sketched: they travel between processes."""
ROWS_A_TASK = 1 << 15
"""Rows that a task adds up, at least."""
OF_SETS = frozenset({"count", "classes", "overlap"})
"""Fields that class sets depend on."""
OF_ANSWERS = frozenset({"active", "distil", "mixture", "generalist"})
"""Fields that a specialist does not depend on."""


def generalist(run: Run, seed: int) -> student.Job:
    return run.recipe.specialists.generalist, seed


def fingerprint(run: Run, seed: int, checksum: str | None) -> str:
    """Of the class sets of a generalist, whose weights have this sha256."""
    asked = run.recipe.specialists.model_dump(mode="json", include=set(OF_SETS))
    of = student.fingerprint(run, generalist(run, seed))
    return digest({"stage": NAME, "generalist": of, "weights": checksum, "sets": asked})


def of_specialist(run: Run, seed: int, number: int, checksum: str | None) -> str:
    """Of a specialist of that generalist."""
    settings = run.recipe.specialists
    how = settings.model_dump(mode="json", exclude={*OF_ANSWERS, *HOW_ONLY})
    return digest({"sets": fingerprint(run, seed, checksum), "number": number, "how": how})


def folder(run: Run, seed: int) -> str:
    """Relative to the run."""
    return f"{NAME}/seed-{seed}"


def specialist_folder(run: Run, seed: int, number: int) -> str:
    return f"{folder(run, seed)}/specialist-{number:03d}"


def folders(run: Run) -> list[Path]:
    """Of all specialists of the recipe, absolute."""
    numbers = range(run.recipe.specialists.count)
    return [run.folder / specialist_folder(run, seed, n) for seed in run.recipe.student.seeds for n in numbers]


def spec(run: Run, own: list[int]) -> ModelSpec:
    """The network of a specialist."""
    recipe = run.recipe
    base = student.model(recipe, recipe.specialists.generalist)
    return ModelSpec(name="specialist", model=base.model_dump(mode="json"), own=own, dustbin=recipe.specialists.dustbin)


def sets(run: Run, seed: int, checksum: str | None) -> list[list[int]] | None:
    """The class sets of a generalist with these weights; None if they are not there."""
    there = run.locate(folder(run, seed), fingerprint(run, seed, checksum))
    found = None if there is None else read_json(there / SETS)
    return None if found is None else list(found["sets"])


def finished_ones(run: Run, seed: int, checksum: str | None) -> dict[int, str]:
    """The sha256 of the weights of each finished specialist of a generalist, by number."""
    done: dict[int, str] = {}
    for number in range(run.recipe.specialists.count):
        mark = of_specialist(run, seed, number, checksum)
        there = run.locate(specialist_folder(run, seed, number), mark)
        if there is not None and (weights := finished(there, mark)) is not None:
            done[number] = weights
    return done


def total(run: Run) -> int:
    """Specialists, and networks that are made of them."""
    return run.recipe.specialists.count * len(run.recipe.student.seeds) + len(unified.jobs(run))


def missing(run: Run) -> list[str]:
    settings = run.recipe.specialists
    if not settings.count:
        return []
    trained = student.finished_jobs(run)
    left = []
    for seed in run.recipe.student.seeds:
        checksum = trained.get(generalist(run, seed))
        done = finished_ones(run, seed, checksum) if checksum is not None else {}
        left += [f"seed-{seed}/specialist-{n:03d}" for n in range(settings.count) if n not in done]
    return [*left, *unified.missing(run)]


def take_back(run: Run) -> None:
    """Bring back what was set aside and is asked for again."""
    trained = student.finished_jobs(run)
    for seed in run.recipe.student.seeds if run.recipe.specialists.count else []:
        checksum = trained.get(generalist(run, seed))
        if checksum is None:
            continue
        run.take_back(folder(run, seed), fingerprint(run, seed, checksum))
        for number in range(run.recipe.specialists.count):
            run.take_back(specialist_folder(run, seed, number), of_specialist(run, seed, number, checksum))
    unified.take_back(run)


def work(run: Run, bars: Bars) -> None:
    """Find the class sets that are missing, train the specialists that are missing, then what is made of all."""
    trained = student.finished_jobs(run)
    generalists = {seed: trained[generalist(run, seed)] for seed in run.recipe.student.seeds}
    for seed, checksum in generalists.items():
        if sets(run, seed, checksum) is None:
            _find_sets(run, seed, checksum, bars)
        run.claim(folder(run, seed), fingerprint(run, seed, checksum))
    _train(run, generalists, bars)
    unified.work(run, bars)


def _find_sets(run: Run, seed: int, checksum: str, bars: Bars) -> None:
    from kdscale import cluster
    from kdscale.specialists.clusters import confusion_sets
    from kdscale.specialists.covariance import InOrder, gather

    settings, parts = run.recipe.specialists, list(_parts(run))
    classes = len(run.manifest.classes)
    sums = InOrder(gather(classes, SKETCH_BEYOND, seed=derive(seed, "sketch")))

    def tick() -> None:
        bars.show(f"{NAME}: predictions of seed-{seed}", sums.merged, len(parts))

    needs = cluster.needs(settings.cpus, settings.gpus)
    tasks = cluster.Tasks(tick, run.owner(NAME))
    for number, part in enumerate(parts):
        tasks.submit(
            f"predictions of {student.job_name(generalist(run, seed))}",
            count_predictions,
            run.folder,
            run.recipe,
            seed,
            checksum,
            part,
            needs,
            needs=needs,
            done=partial(sums.add, number),
        )
    tasks.run()
    tick()
    found = confusion_sets(
        sums.whole.columns(), settings.count, settings.classes, settings.overlap, derive(seed, "clusters")
    )
    mark = fingerprint(run, seed, checksum)
    write_json(run.claim(folder(run, seed), mark) / SETS, {"generalist": checksum, "sets": found})


def _parts(run: Run) -> Iterator[list[int]]:
    """Numbers of shards, a task's worth at a time, however many workers there are."""
    part: list[int] = []
    rows = 0
    for number, shard in enumerate(run.manifest.splits[SPLIT]):
        part.append(number)
        rows += shard.samples
        if rows >= ROWS_A_TASK:
            yield part
            part, rows = [], 0
    if part:
        yield part


def count_predictions(
    folder: Path, recipe: Recipe, seed: int, checksum: str, numbers: list[int], needs: Any
) -> "Covariance | Sketch":
    """On a worker: the generalist's predictions on some shards, added up."""
    import numpy as np
    import torch

    from kdscale.logits.producer import BATCH
    from kdscale.pipeline import workers
    from kdscale.specialists.covariance import gather
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    device = use_device(needs.cpus, needs.gpus)
    predict, pixels = predictor(run, seed, checksum, device), workers.shared_pixels(run, device)
    dataset = workers.dataset(run, SPLIT)
    sums = gather(dataset.classes, SKETCH_BEYOND, seed=derive(seed, "sketch"))
    with torch.inference_mode():
        for number in numbers:
            decoded = dataset.decoded(number)
            for start in range(0, len(decoded.ids), BATCH):
                rows = slice(start, start + BATCH)
                view = np.zeros(len(decoded.ids[rows]), np.int64)
                sums.add(predict(pixels(decoded.x[rows], decoded.ids[rows], view)).softmax(1).cpu().numpy())
    return sums


def predictor(run: Run, seed: int, checksum: str, device: Any) -> Any:
    from kdscale.pipeline import workers

    job = generalist(run, seed)
    model = student.model(run.recipe, job[0])
    return workers.predictor(run.folder / student.job_folder(run, job), checksum, model, run.manifest, device)


def _train(run: Run, generalists: dict[int, str], bars: Bars) -> None:
    from kdscale import cluster

    settings = run.recipe.specialists
    done = {seed: finished_ones(run, seed, checksum) for seed, checksum in generalists.items()}
    total = settings.count * len(generalists)
    folders: dict[tuple[int, int], Path] = {}
    for seed, checksum in generalists.items():
        for number in range(settings.count):
            if number not in done[seed]:
                mark = of_specialist(run, seed, number, checksum)
                folders[seed, number] = run.claim(specialist_folder(run, seed, number), mark)

    def tick() -> None:
        bars.show(NAME, sum(map(len, done.values())), total)
        for (seed, number), at in folders.items():
            teachers.show_job(bars, f"  seed-{seed}/{at.name}", status.read(at), number in done[seed])

    needs = cluster.needs(settings.cpus, settings.gpus)
    tasks = cluster.Tasks(tick, run.owner(NAME), run.recipe.teachers.placement)
    for (seed, number), at in folders.items():
        status.note(at, "queued", stage=NAME, job=f"seed-{seed}/{at.name}", seed=seed)
        tasks.submit(
            f"seed-{seed}/{at.name}",
            train_specialist,
            run.folder,
            run.recipe,
            seed,
            number,
            generalists[seed],
            needs,
            needs=needs,
            done=partial(done[seed].__setitem__, number),
        )
    tasks.run()
    tick()


def train_specialist(folder: Path, recipe: Recipe, seed: int, number: int, checksum: str, needs: Any) -> str:
    """On a worker: train a specialist from its last checkpoint; the sha256 of its weights."""
    from kdscale.cluster import whereabouts
    from kdscale.pipeline import workers
    from kdscale.specialists.training import Specialist, train
    from kdscale.tracking.job import tracker
    from kdscale.training.engine import use_device

    run = Run(folder, recipe)
    found = sets(run, seed, checksum)
    assert found is not None, "specialists train when the class sets are there"
    at, mark = folder / specialist_folder(run, seed, number), of_specialist(run, seed, number, checksum)
    name = f"seed-{seed}/{at.name}"
    one = Specialist(number, found[number], derive(seed, "specialist", number), at, mark)

    record = tracker(folder, recipe, at, NAME, name, mark, {"seed": seed, "number": number, "classes": found[number]})
    with ExitStack() as stack:
        stack.enter_context(locked(at / ".lock"))
        remove_temporaries(at)
        device = use_device(needs.cpus, needs.gpus)
        model = predictor(run, seed, checksum, device).model
        return train(
            one,
            model,
            workers.dataset(run, SPLIT),
            recipe.specialists,
            device,
            Status(at, stage=NAME, job=name, seed=seed, active=True, **whereabouts()),
            record,
            recipe.data.normalize,
            stop_file(folder).exists,
        )

"""The import: any source becomes shards and, written last, a manifest.

The first stage of a run. The result depends on the source, the recipe's data section and the seed alone, never on
the number of workers; a killed import is simply run again and writes the same bytes.
"""

import errno
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale import recipe
from kdscale.data import decoded, shards
from kdscale.data.manifest import FILE, SPLITS, Manifest, SampleSpec, Shard
from kdscale.data.sources import check_kind, grouping, open_source, pool
from kdscale.data.sources.base import Source
from kdscale.data.sources.moments import Moments
from kdscale.data.sources.repeats import refuse_repeats
from kdscale.errors import RunFailure, UserError
from kdscale.files import TEMPORARY, read_json, write_text

IN_PROCESS = 5_000
"""Fewer samples than this are imported faster than worker processes start."""
MEMORY = 8 << 30
"""Bytes that all workers together may hold of a source that lies in memory."""
MARK = "import.unfinished"
"""There while an import writes; tells shards that a killed one left from files of the user's."""


@dataclass(frozen=True)
class _Task:
    folder: Path
    name: str
    rows: NDArray[np.int64]
    """Samples of the shard in its order."""
    kept: bool
    """Whether it is kept decoded as well."""


@dataclass(frozen=True)
class _Written:
    shard: Shard
    ids: NDArray[np.uint64]
    moments: Moments


def import_dataset(
    data: recipe.Data,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Manifest:
    """Import `data` into the folder `out` and return its manifest, which is also saved there.

    Splits that the source has are kept; a missing test split is cut from the training samples, then a missing
    validation split, every class in proportion. `progress` gets (samples done, samples in all); for tars in place,
    tars. Without `workers`, small sets are imported in this process and others on all cores.

    Raises:
        UserError: the source cannot be used as it is; names the file, row or field.
        RunFailure: the disk is full, or a worker was killed.
    """
    check_kind(data.source)
    try:
        if data.source == "shards":
            from kdscale.data.sources import shards as in_place

            manifest = in_place.manifest(data, seed, progress, workers, out)
            itself = data.path is not None and Path(data.path).absolute() == out.absolute()
            if not (itself and (out / FILE).exists()):
                _claim(out, [])
                manifest.save(out)
            return manifest
        return _import(data, seed, out, progress, workers)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailure(
                f"{out}: no space is left on the disk; free some, or import elsewhere, and run the same command again"
            ) from None
        raise


def _import(
    data: recipe.Data, seed: int, out: Path, progress: Callable[[int, int], None] | None, workers: int | None
) -> Manifest:
    source = open_source(data.source, data.path, data.options, data.image_size)
    rows = split_rows(source, data, seed)
    tasks = [
        _Task(out, f"{split}-{number:06d}.tar", part, decoded.fits(source.spec, len(rows[split])))
        for split in SPLITS
        for number, part in enumerate(_cut_shards(rows[split], data.shard_size, seed, split))
    ]
    total = sum(len(task.rows) for task in tasks)
    spec, classes = source.spec, source.classes
    if workers is None:
        workers = 1 if total < IN_PROCESS or ":" in data.source else pool.cores()
        workers = max(1, min(workers, MEMORY // max(1, source.memory)))
    elif ":" in data.source:
        workers = 1  # the user's function is called once, it may not return the same twice
    _claim(out, [task.name for task in tasks])
    decoded.forget(out)
    written: dict[int, _Written] = {}
    opened = source if min(workers, len(tasks)) == 1 else None
    del source
    arguments = (data.source, data.path, data.options, data.image_size)
    done = 0
    try:
        for index, one in pool.each(_write, tasks, workers, _start, (opened, spec, arguments)):
            written[index] = one
            done += one.shard.samples
            if progress is not None:
                progress(done, total)
    finally:
        _worker.clear()
    ordered = [written[index] for index in range(len(tasks))]
    refuse_repeats([(str(out / one.shard.name), one.ids) for one in ordered])
    moments = Moments(spec)
    groups: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    for one in ordered:
        split = one.shard.name.partition("-")[0]
        groups[split].append(one.shard)
        if split == "train":
            moments.merge(one.moments)
    mean, std = moments.result()
    manifest = Manifest(classes=classes, sample=spec, mean=mean, std=std, splits=groups)
    manifest.save(out)
    (out / MARK).unlink()
    return manifest


def split_rows(source: Source, data: recipe.Data, seed: int) -> dict[str, NDArray[np.int64]]:
    """The samples of each split, ascending: the source's own splits, the missing ones cut from train.

    Raises:
        UserError: fewer than two classes, a class without a training sample, or too few samples to cut.
    """
    name, labels = data.path or data.source, source.labels
    counts = np.bincount(labels, minlength=len(source.classes))
    if np.count_nonzero(counts) < 2:
        raise UserError(
            f"{name}: all {len(labels)} samples are of the class {source.classes[int(counts.argmax())]}; "
            "a classifier needs at least two classes"
        )
    if source.splits is None:
        rows = {"train": np.arange(len(labels)), "validation": np.arange(0), "test": np.arange(0)}
    else:
        rows = {split: np.flatnonzero(source.splits == split) for split in SPLITS}
    if not len(rows["train"]):
        raise UserError(f"{name}: there are no training samples, only other splits; add a train split")
    missing = np.flatnonzero(np.bincount(labels[rows["train"]], minlength=len(source.classes)) == 0)
    if len(missing):
        raise UserError(
            f"{name}: the class {source.classes[int(missing[0])]} has no sample in the training split; "
            "add some, or take the class out"
        )
    groups = None if data.group is None else grouping.of(source, data.group)
    if groups is not None:
        grouping.check(groups, rows, name)
    rng = np.random.default_rng([seed, 0])
    for split, share in (("test", data.test), ("validation", data.validation)):
        if len(rows[split]) or (split == "validation" and share == 0):
            continue
        if share == 0:
            raise UserError(f"data.test: is 0 and {name} has no test split; set a fraction or a count")
        if groups is None:
            cut = _stratified(labels, rows["train"], share, rng, f"data.{split}", name)
        else:
            cut = grouping.cut(labels, groups, rows["train"], share, rng, f"data.{split}", name)
        rows[split], rows["train"] = cut, np.setdiff1d(rows["train"], cut, assume_unique=True)
    if data.train is not None and data.train != 1 and round(data.train) != len(rows["train"]):
        rows["train"] = _stratified(labels, rows["train"], data.train, rng, "data.train", name)
    return rows


def _stratified(
    labels: NDArray[np.int64], rows: NDArray[np.int64], share: float, rng: np.random.Generator, field: str, name: str
) -> NDArray[np.int64]:
    """Rows to cut, ascending: every class in proportion (largest remainders), none of them whole."""
    wanted = round(share) if share >= 1 else max(1, round(share * len(rows)))
    counts = np.bincount(labels[rows])
    room = np.maximum(counts - 1, 0)
    if wanted > room.sum():
        raise UserError(
            f"{field}: {wanted} of the {len(rows)} training samples of {name} cannot be kept apart and still leave "
            f"one of each class (at most {room.sum()} can); lower it, or bring more samples"
        )
    quota = counts * (wanted / len(rows))
    take = np.minimum(np.floor(quota).astype(np.int64), room)
    while (short := wanted - int(take.sum())) > 0:
        order = np.argsort(take - quota, kind="stable")
        take[order[take[order] < room[order]][:short]] += 1
    return np.sort(
        np.concatenate(
            [
                rng.permutation(rows[labels[rows] == number])[:count]
                for number, count in enumerate(take.tolist())
                if count
            ]
        )
    )


def _cut_shards(rows: NDArray[np.int64], size: int, seed: int, split: str) -> list[NDArray[np.int64]]:
    """Shuffled, so that every shard mixes the classes."""
    mixed = np.random.default_rng([seed, 1, SPLITS.index(split)]).permutation(rows)
    return [mixed[start : start + size] for start in range(0, len(mixed), size)]


def _claim(out: Path, names: list[str]) -> None:
    """Make sure that nothing but an earlier import's files is overwritten; its manifest goes first.

    Raises:
        UserError: the folder holds a file of that name that no import wrote.
    """
    ours = False
    if (out / FILE).exists():
        with suppress(ValueError):
            tree = read_json(out / FILE)
            ours = isinstance(tree, dict) and {"fingerprint", "splits"} <= tree.keys()
        if not ours:
            raise UserError(f"{out / FILE}: is no manifest of an import, and is not overwritten; import elsewhere")
    unfinished = (out / MARK).exists()
    if not ours and not unfinished:
        for name in names:
            if (out / name).exists():
                raise UserError(f"{out / name}: is there already and no import wrote it; import into another folder")
    if not names:
        return
    write_text(out / MARK, "An import writes here. It is done when this file is gone and manifest.json is there.\n")
    (out / FILE).unlink(missing_ok=True)
    if unfinished:
        left = re.compile(
            rf"{re.escape(TEMPORARY)}(?:(?:{'|'.join(SPLITS)})-\d{{6}}\.tar|manifest\.json)-[0-9a-f]{{8}}"
        )
        for file in out.iterdir():
            if left.fullmatch(file.name):
                file.unlink(missing_ok=True)


_worker: dict[str, Any] = {}
"""What `_start` left in this process for `_write`."""


def _start(opened: Source | None, spec: SampleSpec, arguments: tuple[Any, ...]) -> None:
    _worker.update(source=opened, spec=spec, arguments=arguments)


def _write(task: _Task) -> _Written:
    """One shard: samples are read in the source's order, which spares it seeks, and written in the shard's."""
    if _worker["source"] is None:  # opened here and not in `_start`, whose errors a process pool swallows
        _worker["source"] = open_source(*_worker["arguments"])
    spec: SampleSpec = _worker["spec"]
    source: Source = _worker["source"]
    source.spec = spec
    samples, arrays, moments = {}, {}, Moments(spec)
    for row in np.sort(task.rows).tolist():
        sample = source.encode(row)
        where = source.where(row)
        x = shards.decode_payload(where, sample.extension, sample.payload, spec)
        moments.add(x)
        samples[row] = sample
        if task.kept:
            arrays[row] = x
    ordered = [samples[row] for row in task.rows.tolist()]
    shard = shards.write(task.folder, task.name, ordered)
    keys = [sample.key for sample in ordered]
    ids = shards.ids_of(keys)
    if task.kept:
        x = np.stack([arrays[row] for row in task.rows.tolist()], dtype=shards.dtype(spec), casting="unsafe")
        y = np.array([sample.label for sample in ordered], np.int64)
        decoded.keep(task.folder, shard, shards.Decoded(keys, ids, x, y))
    return _Written(shard, ids, moments)

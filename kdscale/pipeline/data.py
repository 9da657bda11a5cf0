"""Stage 1, data: the source becomes shards and a manifest in RUN/data."""

from pathlib import Path

from kdscale.data.importing import import_dataset
from kdscale.data.manifest import FILE
from kdscale.errors import Stopped, UserError
from kdscale.files import digest, read_json, remove_temporaries, write_json
from kdscale.pipeline.run import IMPORTED, Run
from kdscale.recipe import Recipe
from kdscale.tracking.progress import Bars
from kdscale.tracking.status import stop_file

_FIELDS = {"source", "path", "options", "validation", "test", "image_size", "shard_size"}

_LATER = {"train", "group"}
"""Fields that came later: where they are not given, a dataset's fingerprint is what it was."""


def fingerprint(run: Run) -> str:
    data = run.recipe.data
    later = {name for name in _LATER if getattr(data, name) is not None}
    return digest({"stage": "data", "seed": run.recipe.seed, **data.model_dump(mode="json", include=_FIELDS | later)})


def missing(run: Run) -> list[str]:
    done = read_json(run.dataset / IMPORTED)
    whole = done is not None and done["fingerprint"] == fingerprint(run) and (run.dataset / FILE).exists()
    return [] if whole else ["shards"]


def work(run: Run, bars: Bars) -> None:
    recipe = run.recipe
    run.dataset.mkdir(parents=True, exist_ok=True)
    remove_temporaries(run.dataset)

    def progress(done: int, total: int) -> None:
        bars.show("data: samples", done, total)
        if stop_file(run.folder).exists():
            raise Stopped

    manifest = import_dataset(recipe.data, recipe.seed, run.dataset, progress)
    check_views(recipe, manifest.sample.kind)
    write_json(run.dataset / IMPORTED, {"fingerprint": fingerprint(run), "source": _look(recipe.data.path)})
    counts = ", ".join(f"{manifest.samples(split)} {split}" for split in manifest.splits)
    bars.say(f"data: {len(manifest.classes)} classes, {counts} samples")


def changed_source(run: Run) -> str | None:
    """A remark if the files that the run imported have changed since."""
    done = read_json(run.dataset / IMPORTED)
    if done is None or done.get("source") in (None, _look(run.recipe.data.path)):
        return None
    return f"{run.recipe.data.path} has changed since it was imported; this run keeps what it imported (--fresh imports anew)"


def check_views(recipe: Recipe, kind: str) -> None:
    """Refuse views of samples that are not images."""
    data, teachers = recipe.data, recipe.teachers
    if kind == "image":
        return
    for name, spec in (("data.views", data.views), ("teachers.views", teachers.views)):
        if not spec.changes_nothing:
            raise UserError(
                f"{name}: views move pixels, and the samples of {data.source} are arrays, not images; set {name}={{}}"
            )


def _look(path: str | None) -> str | None:
    """What a glance at a local path shows: names, sizes and times of its files."""
    if path is None or "://" in path or not Path(path).exists():
        return None
    files = [Path(path)] if Path(path).is_file() else sorted(p for p in Path(path).rglob("*") if p.is_file())
    return digest([[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files])

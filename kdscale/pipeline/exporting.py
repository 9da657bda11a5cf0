"""A run's finished model as one file to be served: written aside, run on the test split, and only then there."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdscale.data.dataset import Dataset
from kdscale.errors import RunFailure, UserError
from kdscale.export import formats
from kdscale.export.formats import Format
from kdscale.export.served import About, served
from kdscale.files import written_aside
from kdscale.models import zoo
from kdscale.pipeline import student, teachers, workers
from kdscale.pipeline.run import Run
from kdscale.recipe import ModelSpec
from kdscale.training.finished import load_predictor

TOLERANCE = 1e-4
"""How far logits of the file may be from the trained model's, relative to the largest logit where that is above 1."""
ROWS = 256
"""Samples that are compared at a time, and a last batch of what is left."""


@dataclass(frozen=True)
class Exported:
    """A file that was verified."""

    path: Path
    about: About
    bytes: int
    samples: int
    """Of the test split, all of it."""
    difference: float
    """The largest between a logit of the file and of the trained model."""
    same: int
    """Samples whose class is the same."""


@dataclass(frozen=True)
class _Finished:
    folder: Path
    checksum: str
    network: ModelSpec


def export(run: Run, model: str, to: Format, path: Path | None = None) -> Exported:
    """Write a model of a run, with its pre-processing and class names, into one file.

    Args:
        model: student or control (of the first seed), student-seed-3, or a member such as seed-3.
        path: RUN/export/MODEL with the format's suffix by default.

    Raises:
        UserError: no such model, one that is not finished, or one that the format cannot hold.
        RunFailure: the file computes something else than the trained model; it is not kept.
    """
    name = _full_name(run, model)
    found = _find(run, name)
    manifest = run.manifest
    device = torch.device("cpu")
    predictor = load_predictor(
        found.folder,
        found.checksum,
        found.network.model_dump_json(),
        manifest.sample.shape,
        len(manifest.classes),
        device,
    )
    network = zoo.build(found.network, manifest.sample.shape, len(manifest.classes), 0).eval()
    network.load_state_dict(predictor.model.state_dict())
    whole = served(network, manifest, run.recipe.data.normalize)
    about = About(
        run=run.recipe.name,
        model=name,
        classes=manifest.classes,
        sample=manifest.sample,
        network=found.network,
        weights=found.checksum,
        dataset=manifest.fingerprint,
    )
    pixels = workers.shared_pixels(run, device)
    path = path or run.folder / "export" / f"{name}{formats.SUFFIX[to]}"
    with written_aside(path) as temporary:
        formats.write(whole, about, to, temporary)
        served_by_file, said = formats.load(temporary, to)
        if said != about:
            raise RunFailure(f"{path}: the file does not say of itself what was written; it is not kept")
        dataset, samples, difference, largest, same = Dataset(run.dataset, "test"), 0, 0.0, 1.0, 0
        for number in range(len(dataset.shards)):
            x = dataset.decoded(number).x
            for start in range(0, len(x), ROWS):
                rows = np.ascontiguousarray(x[start : start + ROWS])
                view = np.zeros(len(rows), np.int64)  # the plain one
                with torch.inference_mode():
                    ours = predictor(pixels(rows, view.astype(np.uint64), view)).numpy()
                theirs = served_by_file(rows)
                samples += len(rows)
                difference = max(difference, float(np.abs(ours - theirs).max()))
                largest = max(largest, float(np.abs(ours).max()))
                same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        if not difference <= TOLERANCE * largest:
            raise RunFailure(
                f"{path}: its logits differ from the trained model's by up to {difference:.2g} on the test split; it is not kept"
            )
    return Exported(path, about, path.stat().st_size, samples, difference, same)


def _full_name(run: Run, model: str) -> str:
    return f"{model}-seed-{run.recipe.student.seeds[0]}" if model in ("student", "control") else model


def _find(run: Run, name: str) -> _Finished:
    recipe = run.recipe
    if member := re.fullmatch(r"(?:teacher-)?seed-(\d+)", name):
        seed = int(member[1])
        if seed in recipe.teachers.seeds:
            checksum = teachers.members(run).get(seed)
            return _Finished(teachers.member_folder(run, seed), _there(run, name, checksum), recipe.teachers.model)
    known = {student.job_name(job): job for job in student.jobs(run)}
    if name in known:
        job = known[name]
        checksum = student.finished_jobs(run).get(job)
        folder = run.locate(student.job_folder(run, job), student.fingerprint(run, job))
        return _Finished(folder or run.folder, _there(run, name, checksum), student.model(recipe, job[0]))
    members = [f"seed-{seed}" for seed in recipe.teachers.seeds]
    raise UserError(f"{run.folder}: the run has no model {name}; it has {', '.join([*known, *members])}")


def _there(run: Run, name: str, checksum: str | None) -> str:
    if checksum is None:
        raise UserError(f"{run.folder}: {name} is not finished; give kdscale run again and export it then")
    return checksum

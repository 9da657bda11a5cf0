"""One rank of a member that is too big for one device: a DeepSpeed group trains it on the labels, as students are trained."""

from pathlib import Path

import torch

from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.ensemble.replica import Member, Result
from kdscale.pipeline.ranks import Assignment, Lessons, train_on_ranks
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.seeds import derive
from kdscale.training import objectives


def train_teacher(folder: Path, recipe: Recipe, member: Member, gpus: float) -> dict[int, Result]:
    """On every rank of a group: train a member; the sha256 of its weights, by its seed."""

    def learn(dataset: Dataset, device: torch.device, rank: int, steps: int) -> Lessons:
        seen = derive(member.seed, "views")
        pixels = Pixels(dataset.manifest, recipe.data.normalize, recipe.teachers.views, seen, device)
        return Lessons(objectives.hard, pixels, lambda epoch: epoch + 1)

    task = Assignment(
        member.stage, member.folder, member.fingerprint, member.seed, facts={"ranks": recipe.teachers.workers}
    )
    run = Run(folder, recipe)
    return {member.seed: train_on_ranks(run, recipe.teachers, gpus, task, member.checkpoints, learn)}

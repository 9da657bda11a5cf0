"""A replica: the process that trains one member, from its last checkpoint to committed weights.

Weights, data order, dropout and views follow the member's seed alone; the node, the neighbours and a crash on the
way change nothing.
"""

import shutil
from pathlib import Path

from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.files import locked, remove_temporaries
from kdscale.models import zoo
from kdscale.recipe import Recipe
from kdscale.seeds import derive
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.done import finished
from kdscale.training.engine import TorchEngine, use_device
from kdscale.training.finished import commit_weights
from kdscale.training.fit import Plan, fit


def train_member(
    folder: Path, stop: Path, recipe: Recipe, dataset_folder: Path, seed: int, fingerprint: str, gpus: float
) -> str:
    """Train member `seed` in its folder; the sha256 of its weights.

    Once the file `stop` is there, the state is saved and the replica ends.

    Raises:
        Stopped: asked to stop; the state is saved.
        RunFailure: the loss is no longer finite.
    """
    with locked(folder / ".lock"):
        if (done := finished(folder, fingerprint)) is not None:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return done
        remove_temporaries(folder)
        teachers = recipe.teachers
        device = use_device(teachers.cpus, gpus)
        dataset = Dataset(dataset_folder, "train")
        manifest = dataset.manifest
        model = zoo.build(teachers.model, manifest.sample.shape, dataset.classes, derive(seed, "weights"))
        engine = TorchEngine(model, device, teachers.weight_decay, teachers.precision, teachers.max_norm)
        order = Order(dataset.sizes, derive(seed, "order"), teachers.batch_size, recipe.data.lanes, recipe.data.window)
        pixels = Pixels(manifest, recipe.data.normalize, teachers.views, derive(seed, "views"), device)
        batches = Batches(dataset, order, pixels, lambda epoch: epoch + 1, range(order.lanes))
        plan = Plan(order.steps(teachers.epochs), order.samples / order.batch_size, teachers, derive(seed, "steps"))
        checkpoints = Checkpoints(folder / "checkpoints" / fingerprint[:12])
        status = Status(folder, stage="teachers", job=f"seed-{seed}", seed=seed)
        status.update(state="running", steps=plan.steps)

        def tracker(step: int) -> JobTracker:
            config = {"seed": seed, **recipe.model_dump(mode="json")}
            return JobTracker(
                folder,
                "teachers",
                f"seed-{seed}",
                step,
                wandb=recipe.tracking.wandb,
                group=recipe.name,
                group_id=fingerprint,
                config=config,
            )

        fit(engine, batches, objectives.hard, plan, checkpoints, tracker, status, stop.exists)
        checksum = commit_weights(folder, engine.weights(), fingerprint, seed=seed)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        status.update(state="done", step=plan.steps)
        return checksum

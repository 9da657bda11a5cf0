"""The fit loop: a job that is killed and resumed ends in the same bytes as an undisturbed one."""

import json
from pathlib import Path

import pytest
import torch

from kdscale.data.batches import Batch, Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.errors import RunFailure, Stopped
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Training, ViewSpec, WandB
from kdscale.tracking.identity import Identity
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.engine import TorchEngine, bound_norms
from kdscale.training.fit import Job, Plan, fit

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the loop may catch it."""


def train(
    data: Path,
    folder: Path,
    model: str = "mlp",
    precision: str = "float32",
    kill_at: int | None = None,
    stop=lambda: False,
    *,
    stopped_at: int | None = None,
    lr: float = 0.01,
    jitter: int = 1,
) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    options = (
        {"hidden": [16], "dropout": 0.5}
        if model == "mlp"
        else {"depth": 8, "width": 4}
        if model == "resnet"
        else {"width": 4}
    )
    settings = Training(model="mlp", epochs=6, batch_size=8, checkpoint_epochs=0.7, lr=lr)
    dataset = Dataset(data, "train")
    net = zoo.build(ModelSpec(name=model, **options), (1, 6, 6), 3, 1)
    engine = TorchEngine(net, CPU, 0.01, precision, max_norm=2.0)
    order = Order(dataset.sizes, 1, 8, 4, 10)
    batches = Batches(
        dataset, order, Pixels(dataset.manifest, True, ViewSpec(jitter=jitter), 3, CPU), lambda e: e + 1, range(4)
    )

    def killing(step: int):
        if step == kill_at:
            raise Killed
        if step == stopped_at:
            raise Stopped("while waiting for logits")
        return batches(step)

    plan = Plan(order.steps(settings.epochs), order.samples / 8, settings)
    fit(
        engine,
        killing,
        objectives.hard,
        plan,
        [
            Job(
                11,
                Checkpoints(folder / "checkpoints"),
                lambda step: JobTracker(
                    folder, "teachers", "t", step, WandB(), lambda: Identity("g", "g", "teacher", "t")
                ),
                Status(folder),
            )
        ],
        stop,
    )
    return engine.weights()


@pytest.mark.parametrize(
    ("model", "precision"), [("mlp", "float32"), ("mlp", "bfloat16"), ("convnet", "float32"), ("resnet", "float32")]
)
def test_killed_and_resumed_equals_undisturbed(
    dataset_folder: Path, tmp_path: Path, model: str, precision: str
) -> None:
    undisturbed = train(dataset_folder, tmp_path / "a", model, precision)
    for kill_at in (3, 17, 40):
        with pytest.raises(Killed):
            train(dataset_folder, tmp_path / "b", model, precision, kill_at)
    resumed = train(dataset_folder, tmp_path / "b", model, precision)
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    rows = [[json.loads(line) for line in (tmp_path / x / "metrics.jsonl").read_text().splitlines()] for x in "ab"]
    assert rows[0] == rows[1]


def test_a_stop_request_saves_and_the_next_call_goes_on(dataset_folder: Path, tmp_path: Path) -> None:
    undisturbed = train(dataset_folder, tmp_path / "a")
    with pytest.raises(Stopped):
        train(dataset_folder, tmp_path / "b", stop=lambda: True)
    with pytest.raises(Killed):  # what was saved is the first step, so step 0 is not asked for again
        train(dataset_folder, tmp_path / "b", kill_at=1)
    resumed = train(dataset_folder, tmp_path / "b")
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_a_stop_while_waiting_for_data_saves_all_steps_behind_it(dataset_folder: Path, tmp_path: Path) -> None:
    undisturbed = train(dataset_folder, tmp_path / "a")
    with pytest.raises(Stopped):
        train(dataset_folder, tmp_path / "b", stopped_at=17)
    assert Checkpoints(tmp_path / "b" / "checkpoints").step == 17
    resumed = train(dataset_folder, tmp_path / "b")
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_it_learns(dataset_folder: Path, tmp_path: Path) -> None:
    train(dataset_folder, tmp_path, jitter=0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_a_loss_that_is_not_finite_is_a_failure_and_is_not_saved(dataset_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"the loss is (nan|inf) after step \d+ of"):
        train(dataset_folder, tmp_path, lr=1e30)


def test_frozen_and_unused_parameters_resume(tmp_path: Path) -> None:
    def engine() -> TorchEngine:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3))
        net[0].requires_grad_(False)
        net.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
        return TorchEngine(net, CPU)

    first, second = engine(), engine()
    batch = Batch(torch.randn(8, 4), torch.arange(8) % 3)
    first.step(batch, objectives.hard, 0.1)
    first.save(tmp_path)
    second.load(tmp_path)
    for each in (first, second):
        each.step(batch, objectives.hard, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))


def test_max_norm_bounds_each_unit() -> None:
    layer = torch.nn.Linear(50, 7)
    with torch.no_grad():
        layer.weight.mul_(30)
        layer.weight[0].mul_(1e-3)
    small = layer.weight[0].clone()
    bound_norms(torch.nn.Sequential(layer), 1.5)
    norms = layer.weight.norm(dim=1)
    assert torch.allclose(norms[1:], torch.full((6,), 1.5))
    assert torch.equal(layer.weight[0], small)

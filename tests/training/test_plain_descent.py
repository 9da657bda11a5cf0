"""teachers.optimizer=sgd: each step is the learning rate times the gradient, alone and in a pack, and it resumes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdscale.data.batches import Batch
from kdscale.ensemble import packing
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Teachers
from kdscale.recipe_files import load
from kdscale.training.engine import TorchEngine
from kdscale.training.objectives import hard

CPU = torch.device("cpu")


def batch(*lead: int) -> Batch:
    made = torch.Generator().manual_seed(0)
    return Batch(torch.randn(*lead, 8, 4, generator=made), torch.randint(3, (*lead, 8), generator=made))


def test_a_step_is_the_rate_times_the_gradient() -> None:
    net = nn.Linear(4, 3)
    before = net.weight.detach().clone()
    hard(net(batch().x), batch())["loss"].backward()
    assert net.weight.grad is not None
    wanted = before - 0.5 * net.weight.grad
    net.zero_grad()
    TorchEngine(net, CPU, optimizer="sgd").step(batch(), hard, 0.5)
    torch.testing.assert_close(net.weight.detach(), wanted)


def test_it_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = TorchEngine(nn.Linear(4, 3), CPU, optimizer="sgd")
    whole.step(batch(), hard, 0.5)
    whole.save(tmp_path)
    again = TorchEngine(nn.Linear(4, 3), CPU, optimizer="sgd")
    again.load(tmp_path)
    for engine in (whole, again):
        engine.step(batch(), hard, 0.5)
    assert torch.equal(whole.weights()["weight"], again.weights()["weight"])


def test_a_pack_takes_the_same_steps() -> None:
    spec = ModelSpec(name="mlp", hidden=[5])
    teachers = Teachers(model=spec, optimizer="sgd")
    models = [zoo.build(spec, (4,), 3, seed) for seed in range(2)]
    alone = [TorchEngine(zoo.build(spec, (4,), 3, seed), CPU, optimizer="sgd") for seed in range(2)]
    pack, data = packing.engine(models, CPU, teachers), batch(2)
    pack.seed([0, 1])
    pack.step(data, hard, 0.5)
    for i, engine in enumerate(alone):
        engine.step(Batch(data.x[i], data.y[i]), hard, 0.5)
        for name, tensor in engine.weights().items():
            torch.testing.assert_close(pack.models[i].weights()[name], tensor)


def test_deepspeed_brings_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\nteachers: { model: mlp, optimizer: sgd, workers: 2 }\nstudent: { model: mlp }\n"
    )
    with pytest.raises(ValueError, match=r"teachers.optimizer: is sgd, and DeepSpeed's own holds"):
        load(tmp_path / "a.yaml")

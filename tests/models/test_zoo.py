"""The zoo: shapes, sizes, seeds, and refusals."""

import sys
from pathlib import Path

import pytest
import torch

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec


def spec(name: str, **options: object) -> ModelSpec:
    return ModelSpec(name=name, **options)


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (spec("mlp", hidden=[1200, 1200]), (1, 28, 28), 2_395_210),
        (spec("mlp", hidden=[800, 800]), (1, 28, 28), 1_276_810),
        (spec("convnet", width=8), (1, 28, 28), None),
        (spec("convnet", width=8), (3, 8, 8), None),
        (spec("resnet", depth=20), (3, 32, 32), 269_722),
        (spec("wide_resnet", depth=16, width=4), (3, 32, 32), 2_748_890),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_logits_come_out_and_sizes_are_the_papers(
    model: ModelSpec, shape: tuple[int, ...], parameters: int | None
) -> None:
    net = zoo.build(model, shape, 10, 0)
    assert net(torch.randn(2, *shape)).shape == (2, 10)
    assert parameters is None or zoo.parameters(net) == parameters


def test_wrn_28_10_has_the_papers_36_5_million_parameters() -> None:
    with torch.device("meta"):
        net = zoo.wide_resnet((3, 32, 32), 10, depth=28, width=10)
    assert round(zoo.parameters(net) / 1e6, 1) == 36.5


def test_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = zoo.build(spec("resnet", depth=8), (3, 8, 8), 4, 5).state_dict()
    before = torch.get_rng_state()
    two = zoo.build(spec("resnet", depth=8), (3, 8, 8), 4, 5).state_dict()
    other = zoo.build(spec("resnet", depth=8), (3, 8, 8), 4, 6).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (spec("mpl"), "not one of mlp, convnet, resnet, wide_resnet"),
        (spec("mlp", hiden=[3]), "its options are hidden, dropout, input_dropout"),
        (spec("mlp", hidden=[]), "give the width of each layer"),
        (spec("mlp", hidden=64), r"cannot be built with \{'hidden': 64\}"),
        (spec("mlp", dropout=1.5), "cannot be built with"),
        (spec("resnet", depth="x"), "cannot be built with"),
        (spec("resnet", depth=21), r"depth is 21; it must be 6n \+ 2"),
        (spec("no_such_module:net"), "no_such_module cannot be imported"),
        (spec("kdscale.models.mlp:net"), "has no net"),
        (spec("kdscale:__version__"), "is not a function"),
        (spec("builtins:slice"), "returned slice, not a torch.nn.Module"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_mistakes_are_named(model: ModelSpec, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        zoo.build(model, (3, 8, 8), 4, 0)


def test_images_are_needed_for_convolutions() -> None:
    with pytest.raises(UserError, match="use mlp"):
        zoo.build(spec("convnet"), (12,), 4, 0)


class Narrow(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 4)), r"sample of shape \(1, 4, 4\) \(RuntimeError"),
        (Narrow(), r"gives \(1, 3\) for one sample and 4 classes, not \(1, 4\)"),
    ],
)
def test_a_network_that_cannot_be_called_is_found_by_calling_it(network: torch.nn.Module, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        zoo.check(network, spec("own:net"), (1, 4, 4), 4)


def test_one_that_can_is_left_as_it_was() -> None:
    net = zoo.build(spec("resnet", depth=8), (1, 8, 8), 4, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    zoo.check(net, spec("resnet"), (1, 8, 8), 4)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_factory_beside_the_recipe_is_found(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from math import prod\nfrom torch import nn\n"
        "def flat(shape, classes, bias=True):\n    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes, bias=bias))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    net = zoo.build(spec("my_nets:flat", bias=False), (1, 4, 4), 3, 0)
    assert zoo.parameters(net) == 48


def test_the_average_of_one_network_is_that_network() -> None:
    plain, alone = spec("mlp", hidden=[8]), spec("average", model={"name": "mlp", "hidden": [8]}, count=1)
    x = torch.randn(5, 1, 4, 4)
    assert torch.equal(zoo.build(plain, (1, 4, 4), 3, 7)(x), zoo.build(alone, (1, 4, 4), 3, 7)(x))


def test_an_average_has_n_independent_networks_and_trains_them_all() -> None:
    plain = zoo.build(spec("mlp", hidden=[8]), (1, 4, 4), 3, 7)
    net = zoo.build(spec("average", model={"name": "mlp", "hidden": [8]}, count=4), (1, 4, 4), 3, 7)
    assert zoo.parameters(net) == 4 * zoo.parameters(plain)
    x = torch.randn(5, 1, 4, 4)
    each = torch.stack([network(x) for network in net.networks])
    assert torch.allclose(net(x), each.mean(0))
    assert all(not torch.allclose(each[i], each[j]) for i in range(4) for j in range(i))
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    again = zoo.build(spec("average", model={"name": "mlp", "hidden": [8]}, count=4), (1, 4, 4), 3, 7)
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"model": "mlp", "count": 0}, "give the number of networks"), ({"model": {"hidden": [3]}}, "give a name")],
    ids=["count", "model"],
)
def test_mistakes_in_an_average_are_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        zoo.build(spec("average", **options), (1, 4, 4), 3, 0)

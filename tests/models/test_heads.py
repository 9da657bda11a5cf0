"""A head for each teacher on one trunk, and folding them."""

import pytest
import torch
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.models import heads, zoo
from kdscale.recipe import ModelSpec

SHAPE, C = (1, 8, 8), 4
WEIGHTS = [1.0, 2.0, 1.0]
NETWORKS = [
    {"name": "mlp", "hidden": [8]},
    {"name": "convnet", "width": 4},
    {"name": "resnet", "depth": 8, "width": 4},
    {"name": "average", "model": {"name": "mlp", "hidden": [8]}, "count": 2},
    {"name": f"{__name__}:last_is_a_convolution"},
]


def last_is_a_convolution(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def squashed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Tanh())


def made(network: dict[str, object]) -> tuple[heads.Heads, ModelSpec, Tensor]:
    spec = ModelSpec(**network)
    model = zoo.build(heads.spec(spec, WEIGHTS), SHAPE, C, 3)
    assert isinstance(model, heads.Heads)
    return model, spec, torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: str(n["name"]).split(":")[-1])
def test_it_says_the_mean_of_its_heads_softmaxes(network) -> None:
    model, _, x = made(network)
    model.eval()
    each = model.network(x).view(5, 3, C).softmax(2)
    share = torch.tensor([0.25, 0.5, 0.25])[:, None]
    assert torch.allclose(model(x).softmax(1), (each * share).sum(1), atol=1e-6)
    assert torch.allclose(model(x).exp(), model(x).softmax(1), atol=1e-6)
    assert model.train()(x).shape == (5, 3, C)
    assert not torch.equal(each[:, 0], each[:, 1])


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: str(n["name"]).split(":")[-1])
def test_folded_it_is_the_plain_network_with_the_mean_of_the_heads_logits(network) -> None:
    model, spec, x = made(network)
    plain = zoo.build(spec, SHAPE, C, 0)
    plain.load_state_dict(heads.folded(model.state_dict(), spec, SHAPE, C, WEIGHTS))
    each = model.network.eval()(x).view(5, 3, C)
    expected = (each * torch.tensor([0.25, 0.5, 0.25])[:, None]).sum(1)
    assert torch.allclose(plain.eval()(x), expected, atol=1e-5)


def test_what_cannot_be_folded_is_refused() -> None:
    model, spec, _ = made({"name": f"{__name__}:squashed"})
    with pytest.raises(UserError, match="squashed cannot be folded into one"):
        heads.folded(model.state_dict(), spec, SHAPE, C, WEIGHTS)

"""Penultimate features: what the last layer gets, and refusals where there is none."""

import pytest
import torch
from torch import nn

from kdscale.models import zoo
from kdscale.models.features import NoFeatures, Penultimate, width
from kdscale.recipe import ModelSpec


@pytest.mark.parametrize(
    ("name", "options", "features"),
    [("mlp", {"hidden": [8, 5]}, 5), ("convnet", {"width": 4}, 16), ("resnet", {"depth": 8, "width": 4}, 16)],
)
def test_the_last_layer_makes_the_logits_of_them(name: str, options: dict[str, object], features: int) -> None:
    net = zoo.build(ModelSpec(name=name, **options), (1, 8, 8), 3, 0).eval()
    x = torch.randn(4, 1, 8, 8)
    seen = Penultimate(net)(x)
    assert width(net, (1, 8, 8)) == seen.shape[1] == features
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    assert torch.equal(last(seen), net(x))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(-1)),
        nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten()),
        zoo.build(ModelSpec(name="average", model="mlp", count=2), (1, 2, 2), 3, 0),
    ],
    ids=["softmax", "convolution", "average"],
)
def test_networks_that_end_otherwise_have_none(net: nn.Module) -> None:
    with pytest.raises(NoFeatures, match="does not end in a fully connected layer"):
        width(net, (1, 2, 2))


def test_features_must_be_vectors() -> None:
    with pytest.raises(NoFeatures, match="not a vector"):
        width(nn.Linear(2, 3), (1, 2, 2))

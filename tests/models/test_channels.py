"""Channels of a layer: found by name, ranked by how they tell classes apart, and where they are most active."""

import pytest
import torch
from torch import nn

from kdscale.errors import UserError
from kdscale.models import channels, zoo
from kdscale.recipe import ModelSpec


def test_layers_with_maps_are_named_and_give_them() -> None:
    model = zoo.build(ModelSpec(name="resnet", depth=8, width=4), (1, 16, 16), 3, seed=0)
    names = channels.layers(model, (1, 16, 16))
    assert channels.activations(model, names[-1], torch.randn(5, 1, 16, 16)).shape == (5, 16, 4, 4)
    for name in ("nothing", next(n for n, m in model.named_modules() if isinstance(m, nn.Linear))):
        with pytest.raises(UserError, match=f"layer {name}"):
            channels.activations(model, name, torch.randn(2, 1, 16, 16))


def test_separation_is_the_area_under_the_roc_curve() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    maps, y = torch.randn(80, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 4
    maps[y == 2, 1] += 1.0
    found = channels.separation(maps, y, 4)
    for label in range(4):
        for channel in range(3):
            wanted = sklearn.roc_auc_score((y == label).numpy(), maps[:, channel].amax((1, 2)).numpy())
            assert float(found[label, channel]) == pytest.approx(wanted)
    assert int(found[2].argmax()) == 1


def test_patches_are_about_the_most_active_place_and_inside() -> None:
    maps = torch.zeros(3, 1, 4, 4)
    maps[1, 0, 2, 1], maps[0, 0, 0, 3] = 5.0, 2.0
    first, second = channels.patches(maps, 0, side=16, size=6, count=2)
    assert (first.sample, second.sample) == (1, 0)
    assert (first.top, first.left) == (7, 3)
    assert (second.top, second.left) == (0, 10)  # moved inside

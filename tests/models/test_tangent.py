"""Tangent features are the gradients of a two-layer net; nothing but the readout is trained."""

import pytest
import torch

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec


def test_features_are_the_gradients_of_both_layers() -> None:
    model = zoo.build(ModelSpec(name="tangent", width=3), (2, 2), 5, seed=4)
    x = torch.randn(6, 2, 2)
    seen = model.seen(x)
    for row in range(6):
        inner, outer = (t.clone().requires_grad_() for t in (model.inner, model.outer))
        flat = torch.cat([x[row].flatten(), torch.ones(1)])
        f = outer @ (inner @ flat).relu()
        slopes = torch.autograd.grad(f, [outer, inner])
        torch.testing.assert_close(seen[row], torch.cat([slope.flatten() for slope in slopes]))
    assert seen.shape[1] == 3 * (4 + 2)


def test_random_features_are_the_hidden_units() -> None:
    model = zoo.build(ModelSpec(name="tangent", width=9, features="random"), (4,), 2, seed=0)
    assert model.seen(torch.randn(3, 4)).shape == (3, 9)
    assert (model.seen(torch.randn(3, 4)) >= 0).all()


def test_the_seed_draws_the_features_and_training_leaves_them() -> None:
    one, same, other = (zoo.build(ModelSpec(name="tangent", width=3), (4,), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.inner, same.inner)
    assert not torch.equal(one.inner, other.inner)
    assert {name for name, _ in one.named_parameters()} == {"readout.weight", "readout.bias"}
    assert {"inner", "outer"} <= one.state_dict().keys()


def test_refuses() -> None:
    with pytest.raises(UserError, match="model tangent"):
        zoo.build(ModelSpec(name="tangent", features="fourier"), (4,), 2, seed=0)

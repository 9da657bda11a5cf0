"""A specialist's first answers are the generalist's."""

import pytest
import torch
from torch import nn

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec
from kdscale.specialists.heads import specialised

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("spec", [{"name": "mlp", "hidden": [16]}, {"name": "convnet", "width": 4}])
def test_own_logits_are_the_generalists_and_the_dustbin_their_bound(spec):
    generalist = zoo.build(ModelSpec(**spec), SHAPE, 6, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in generalist.state_dict().items()}
    x = torch.randn(5, *SHAPE)
    wanted, found = generalist(x), specialised(generalist, SHAPE, [4, 1])(x)
    torch.testing.assert_close(found[:, :2], wanted[:, [4, 1]])
    others = wanted[:, [0, 2, 3, 5]]
    torch.testing.assert_close(found[:, 2], others.mean(1) + torch.log(torch.tensor(4.0)))
    assert (found[:, 2] <= others.logsumexp(1) + 1e-5).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in generalist.state_dict().items())


def test_the_dustbin_of_equal_logits_is_exact():
    generalist = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    with torch.no_grad():
        generalist[1].weight[2:] = generalist[1].weight[2]
        generalist[1].bias[2:] = generalist[1].bias[2]
    x = torch.randn(5, *SHAPE)
    torch.testing.assert_close(
        specialised(generalist, SHAPE, [0, 1])(x).softmax(1)[:, :2], generalist(x).softmax(1)[:, :2]
    )


def test_refuses_a_network_that_ends_otherwise():
    with pytest.raises(UserError, match="fully connected"):
        specialised(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU()), SHAPE, [0])

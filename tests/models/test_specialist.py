"""A specialist's first answers are the generalist's."""

import pytest
import torch
from torch import nn

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.models.specialist import specialised
from kdscale.recipe import ModelSpec

SHAPE = (1, 8, 8)


KINDS = pytest.mark.parametrize("spec", [{"name": "mlp", "hidden": [16]}, {"name": "convnet", "width": 4}])


@KINDS
def test_it_begins_as_the_generalist_with_the_other_classes_merged(spec):
    generalist = zoo.build(ModelSpec(**spec), SHAPE, 6, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in generalist.state_dict().items()}
    x = torch.randn(5, *SHAPE)
    wanted, found = generalist(x).softmax(1), specialised(generalist, SHAPE, [4, 1])(x).softmax(1)
    torch.testing.assert_close(found[:, :2], wanted[:, [4, 1]])
    torch.testing.assert_close(found[:, 2], wanted[:, [0, 2, 3, 5]].sum(1))
    assert all(torch.equal(before[name], tensor) for name, tensor in generalist.state_dict().items())


@pytest.mark.parametrize("dustbin", ["all", "one"])
def test_its_weights_fit_the_network_that_is_built_from_its_description(dustbin):
    base = {"name": "mlp", "hidden": [16]}
    trained = specialised(zoo.build(ModelSpec(**base), SHAPE, 6, seed=3), SHAPE, [4, 1], dustbin)
    built = zoo.build(ModelSpec(name="specialist", model=base, own=[4, 1], dustbin=dustbin), SHAPE, 6, 0)
    built.load_state_dict(trained.state_dict())
    x = torch.randn(5, *SHAPE)
    torch.testing.assert_close(built(x), trained(x))


@KINDS
def test_a_single_dustbin_output_begins_at_the_bound_of_the_merged_one(spec):
    generalist = zoo.build(ModelSpec(**spec), SHAPE, 6, seed=0).eval()
    x = torch.randn(5, *SHAPE)
    wanted, found = generalist(x), specialised(generalist, SHAPE, [4, 1], "one")(x)
    torch.testing.assert_close(found[:, :2], wanted[:, [4, 1]])
    others = wanted[:, [0, 2, 3, 5]]
    torch.testing.assert_close(found[:, 2], others.mean(1) + torch.log(torch.tensor(4.0)))
    assert (found[:, 2] <= others.logsumexp(1) + 1e-5).all()


def test_a_single_dustbin_output_of_equal_logits_is_exact():
    generalist = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    with torch.no_grad():
        generalist[1].weight[2:] = generalist[1].weight[2]
        generalist[1].bias[2:] = generalist[1].bias[2]
    x = torch.randn(5, *SHAPE)
    torch.testing.assert_close(
        specialised(generalist, SHAPE, [0, 1], "one")(x).softmax(1)[:, :2], generalist(x).softmax(1)[:, :2]
    )


def test_refuses_a_network_that_ends_otherwise():
    with pytest.raises(UserError, match="fully connected"):
        specialised(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU()), SHAPE, [0])

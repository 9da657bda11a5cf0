"""The theory's network: a smoothed ReLU with a continuous slope, summed over patches and neurons."""

import pytest
import torch

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.models.smoothed import smoothed_relu
from kdscale.recipe import ModelSpec


@pytest.mark.parametrize("degree", [3, 4])
def test_smoothed_relu_is_the_papers(degree: int) -> None:
    rho = 0.3
    z = torch.tensor([-1.0, 0.0, 0.1, rho, 2.0], dtype=torch.float64, requires_grad=True)
    wanted = [0, 0, 0.1**degree / (degree * rho ** (degree - 1)), rho / degree, 2.0 - (1 - 1 / degree) * rho]
    out = smoothed_relu(z, degree, rho)
    torch.testing.assert_close(out, torch.tensor(wanted, dtype=torch.float64))
    (slope,) = torch.autograd.grad(out.sum(), z)
    torch.testing.assert_close(slope[[0, 2, 4]], torch.tensor([0.0, (0.1 / rho) ** (degree - 1), 1.0]).double())


def test_a_class_is_the_sum_over_its_neurons_and_all_patches() -> None:
    model = zoo.build(ModelSpec(name="smoothed", neurons=2, std=5.0), (3, 7), 4, seed=1)
    x, weight = torch.randn(5, 3, 7), model.weight.detach()
    wanted = torch.zeros(5, 4)
    for i in range(4):
        for r in range(2):
            for p in range(3):
                wanted[:, i] += smoothed_relu(x[:, p] @ weight[i, r], 3, 0.3)
    torch.testing.assert_close(model(x), wanted)
    assert sum(p.numel() for p in model.parameters()) == 4 * 2 * 7


def test_refuses_other_samples_and_options() -> None:
    for shape, options in (((1, 8, 8), {}), ((3, 7), {"degree": 1}), ((3, 7), {"neurons": 0})):
        with pytest.raises(UserError, match="model smoothed"):
            zoo.build(ModelSpec(name="smoothed", **options), shape, 4, seed=0)

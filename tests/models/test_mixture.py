"""The mixture of experts: a distribution, the gate's weighted mean, and trained as one network."""

import pytest
import torch

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec


def build(**options):
    spec = ModelSpec(name="mixture", **{"model": {"name": "mlp", "hidden": [8]}, "count": 3, "gate": [4], **options})
    return zoo.build(spec, (1, 4, 4), 5, seed=1)


def test_output_is_the_gates_mean_of_the_experts_distributions():
    model, x = build(), torch.randn(6, 1, 4, 4)
    weights = model.gate(x).softmax(1)
    wanted = sum(weights[:, k, None] * expert(x).softmax(1) for k, expert in enumerate(model.experts))
    torch.testing.assert_close(model(x).exp(), wanted)
    torch.testing.assert_close(model(x).softmax(1), wanted)


def test_gate_and_all_experts_learn_together_and_start_apart():
    model = build()
    torch.nn.functional.cross_entropy(model(torch.randn(6, 1, 4, 4)), torch.arange(6) % 5).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    first, second = (expert[1].weight for expert in list(model.experts)[:2])
    assert not torch.equal(first, second)


def test_weights_follow_the_seed():
    for a, b in zip(build().parameters(), build().parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"count": 1}, {"model": 3}, {"gate": [0]}])
def test_refuses(options):
    with pytest.raises(UserError, match="model"):
        build(**options)

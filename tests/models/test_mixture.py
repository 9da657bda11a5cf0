"""The mixture of experts: a distribution, the gate's weighted mean, and trained as one network."""

import copy

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


@pytest.mark.parametrize("size", [1.0, 1000.0])
@pytest.mark.parametrize(("dtype", "tight"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_log_probabilities_and_gradients_are_exact_however_small_the_probability(size, dtype, tight):
    torch.manual_seed(0)
    model, x, y = build().to(dtype), (size * torch.randn(6, 1, 4, 4)).to(dtype), torch.arange(6) % 5
    doubled = copy.deepcopy(model).double()
    weights = doubled.gate(x.double()).log_softmax(1)
    opinions = torch.stack([expert(x.double()).log_softmax(1) for expert in doubled.experts], 1)
    wanted, found = (weights[:, :, None] + opinions).logsumexp(1), model(x)
    assert (size > 1) == bool(wanted.min() < -150)
    torch.testing.assert_close(found.double(), wanted, rtol=tight, atol=tight)
    for log_p in (found, wanted):
        torch.nn.functional.nll_loss(log_p, y).backward()
    for a, b in zip(model.parameters(), doubled.parameters(), strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=100 * tight, atol=10 * tight)


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


def test_a_mixture_can_be_exported_and_autocast_leaves_it_exact():
    model, x = build().eval(), torch.randn(6, 1, 4, 4)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.testing.assert_close(program.module()(x[:3]), model(x[:3]))
    with torch.autocast("cpu", torch.bfloat16):
        said = model(x)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said.exp().sum(1), torch.ones(6))

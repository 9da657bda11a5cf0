"""The super-net: a trained layer over finished networks, which stay as they are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec

NET = {"name": "mlp", "hidden": [6], "dropout": 0.5}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{seed}.safetensors") for seed in range(2)]
    for seed, path in enumerate(paths):
        save_file(zoo.build(ModelSpec(**NET), (5,), 3, seed).state_dict(), path)
    return paths


def test_it_is_a_layer_on_the_networks_logits(files: list[str]) -> None:
    model, x = (
        zoo.build(ModelSpec(name="supernet", model=NET, weights=files), (5,), 3, seed=9).train(),
        torch.randn(4, 5),
    )
    each = [zoo.build(ModelSpec(**NET), (5,), 3, seed).eval()(x) for seed in range(2)]
    torch.testing.assert_close(model(x), model.layer(torch.cat(each, 1)))  # without dropout, though it is in training
    model(x).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert (
        trained == {"layer.weight", "layer.bias"} == {name for name, p in model.named_parameters() if p.requires_grad}
    )


def test_refuses_what_it_cannot_load(files: list[str]) -> None:
    for weights, sentence in (([], "names no weights"), (["none.safetensors"], "none.safetensors does not hold")):
        with pytest.raises(UserError, match=sentence):
            zoo.build(ModelSpec(name="supernet", model=NET, weights=weights), (5,), 3, seed=0)
    with pytest.raises(UserError, match="does not hold weights of mlp"):
        zoo.build(ModelSpec(name="supernet", model={**NET, "hidden": [7]}, weights=files), (5,), 3, seed=0)

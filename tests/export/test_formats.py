"""What is written and loaded again computes the same, for any batch size, and says what it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdscale.data.batches import Pixels
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.errors import UserError
from kdscale.export import formats
from kdscale.export.formats import FORMATS, Format
from kdscale.export.served import About, Served, served
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, ViewSpec

MODELS = [
    ModelSpec(name="mlp", hidden=[16], dropout=0.5),
    ModelSpec(name="convnet", width=4),
    ModelSpec(name="resnet", depth=8, width=4),
    ModelSpec(name="wide_resnet", depth=10, width=1),
]
PICTURES = Manifest(
    classes=["zero", "one", "zwei ½"],
    sample=SampleSpec(kind="image", shape=(2, 8, 8)),
    mean=[0.3, 0.6],
    std=[0.2, 0.1],
    splits={},
)
ARRAYS = Manifest(classes=["a", "b"], sample=SampleSpec(kind="array", shape=(5,)), mean=[1.5], std=[2.0], splits={})


def about(spec: ModelSpec, manifest: Manifest) -> About:
    return About(
        run="r",
        model="student-seed-0",
        classes=manifest.classes,
        sample=manifest.sample,
        network=spec,
        weights="w" * 64,
        dataset=manifest.fingerprint,
    )


def model_of(spec: ModelSpec, manifest: Manifest) -> Served:
    net = zoo.build(spec, manifest.sample.shape, len(manifest.classes), 3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after some training
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return served(net, manifest, normalize=True)


def raw(manifest: Manifest, rows: int) -> np.ndarray:
    random = np.random.default_rng(rows)
    if manifest.sample.kind == "array":
        return random.normal(size=(rows, *manifest.sample.shape)).astype(np.float32)
    return random.integers(0, 256, (rows, *manifest.sample.shape)).astype(np.uint8)


@pytest.mark.parametrize("manifest", [PICTURES, ARRAYS], ids=["pictures", "arrays"])
def test_what_is_served_prepares_samples_as_training_did(manifest: Manifest) -> None:
    model, x = model_of(MODELS[0], manifest), raw(manifest, 7)
    pixels = Pixels(manifest, True, ViewSpec(), 0, torch.device("cpu"))
    prepared = pixels(x, np.arange(7, dtype=np.uint64), np.zeros(7, np.int64))
    assert torch.equal(model(torch.from_numpy(x)), model.network(prepared))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_a_file_computes_what_the_model_does(tmp_path: Path, spec: ModelSpec, to: Format) -> None:
    model = model_of(spec, PICTURES)
    path = tmp_path / f"model{formats.SUFFIX[to]}"
    formats.write(model, about(spec, PICTURES), to, path)
    run, said = formats.load(path, to)
    assert said == about(spec, PICTURES)
    assert list(tmp_path.iterdir()) == [path]
    for rows in (1, 2, 65):
        x = raw(PICTURES, rows)
        with torch.no_grad():
            expected = model(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run(x), expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("to", FORMATS)
def test_arrays_are_served_too(tmp_path: Path, to: Format) -> None:
    model, path = model_of(MODELS[0], ARRAYS), tmp_path / "x"
    formats.write(model, about(MODELS[0], ARRAYS), to, path)
    x = raw(ARRAYS, 3)
    np.testing.assert_allclose(formats.load(path, to)[0](x), model(torch.from_numpy(x)).detach(), atol=1e-4)


class Branching(nn.Module):
    """Looks at its data, which a tracer cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.sum()) > 0 else -self.linear(x)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_model_that_cannot_be_traced_is_refused(tmp_path: Path, to: Format) -> None:
    model = served(Branching(), ARRAYS, normalize=True)
    with pytest.raises(UserError, match=f"--to {to}: torch cannot trace this model .* take --to safetensors"):
        formats.write(model, about(MODELS[0], ARRAYS), to, tmp_path / "x")


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by kdscale export"):
        formats.load(tmp_path / "other.safetensors", "safetensors")
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    with pytest.raises(UserError, match="not a safetensors file"):
        formats.load(tmp_path / "noise", "safetensors")
    with pytest.raises(UserError, match="onnxruntime cannot load it"):
        formats.load(tmp_path / "noise", "onnx")

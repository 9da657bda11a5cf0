"""The best weights of a training are kept, whatever the number of ranks, and found again after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_dataset
from support import deepspeed_cases as cases
from support import ranks

from kdscale.data import shards
from kdscale.data.batches import Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.manifest import Manifest
from kdscale.models import zoo
from kdscale.recipe import Student, ViewSpec
from kdscale.training.best import Best
from kdscale.training.deepspeed_engine import DeepSpeedEngine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("group")]
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset whose test split serves as the one for validation, with a number of samples that two ranks do not divide."""
    manifest = make_dataset(tmp_path / "data")
    splits = {**manifest.splits, "validation": manifest.splits["train"][1:2]}
    assert splits["validation"][0].samples == 25
    Manifest.model_validate({**manifest.model_dump(), "splits": splits}).save(tmp_path / "data")
    return tmp_path / "data"


def engine(seed: int, workers: int = 1) -> DeepSpeedEngine:
    settings = Student(model=cases.RESNET, batch_size=8, workers=workers, deepspeed=cases.FILES["zero3"])
    return DeepSpeedEngine(zoo.build(cases.RESNET, (1, 6, 6), 3, seed), settings, CPU)


def best_of(folder: Path, kept: Path) -> Best:
    dataset = Dataset(folder, "validation")
    return Best(kept, dataset, Pixels(dataset.manifest, True, ViewSpec(), 0, CPU), 2.5, 9)


def on_two(rank: int, folder: str, kept: str) -> dict[str, Any]:
    return best_of(Path(folder), Path(kept)).measure(engine(1, 2))


def test_it_looks_at_the_end_of_each_epoch_and_of_the_training(folder: Path, tmp_path: Path) -> None:
    assert best_of(folder, tmp_path / "kept").due == {3, 5, 8, 9}


def test_what_is_measured_is_the_model_as_it_will_serve(folder: Path, tmp_path: Path) -> None:
    trained = engine(1)
    seen = best_of(folder, tmp_path / "kept").measure(trained)
    dataset = Dataset(folder, "validation")
    net = zoo.build(cases.RESNET, (1, 6, 6), 3, 0).eval()
    net.load_state_dict(trained.weights())
    decoded = dataset.decoded(0)
    assert isinstance(decoded, shards.Decoded)
    x = (torch.from_numpy(decoded.x).float() / 255 - 0.3) / 0.2
    with torch.no_grad():
        z, y = net(x), torch.from_numpy(decoded.y)
    assert seen["errors"] == int((z.argmax(1) != y).sum())
    assert seen["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)), rel=1e-5)
    two = ranks.spawn(on_two, 2, str(folder), str(tmp_path / "kept"))
    assert two[0] == two[1]
    assert (two[0]["errors"], two[0]["n"]) == (seen["errors"], 25)
    assert two[0]["nll"] == pytest.approx(seen["nll"], rel=1e-6)
    assert trained.engine.module.training


def test_the_fewest_errors_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {3: (4, 0.5), 5: (2, 0.9), 8: (2, 0.7), 9: (3, 0.1)}
    weights = {step: {"w": torch.full((2,), float(step))} for step in seen}

    class Fake:
        rank, world = 0, 1

        def __init__(self, step: int):
            self.step = step

        def weights(self) -> dict[str, torch.Tensor]:
            return weights[self.step]

    def measure(self: Best, fake: Fake) -> dict[str, Any]:
        errors, nll = seen[fake.step]
        return {"errors": errors, "nll": nll, "n": 25}

    monkeypatch.setattr(Best, "measure", measure)
    for step in (3, 5, 8, 5, 8, 9):  # killed after 8, resumed from before 5
        best = best_of(folder, tmp_path / "kept")
        assert best.look(Fake(step), step)["validation_accuracy"] == pytest.approx(1 - seen[step][0] / 25)
    kept, facts = best_of(folder, tmp_path / "kept").weights()
    assert facts == {"step": 8, "errors": 2, "nll": 0.7, "n": 25}
    assert torch.equal(kept["w"], weights[8]["w"])
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 1
    assert json.loads((tmp_path / "kept" / "best.json").read_text())["step"] == 8

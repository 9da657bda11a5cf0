"""Checkpoints: the latest whole one is loaded, and what was damaged since is found before it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.files import read_json
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.engine import TorchEngine

CPU = torch.device("cpu")


def engine(seed: int = 0) -> TorchEngine:
    torch.manual_seed(seed)
    return TorchEngine(nn.Linear(4, 2), CPU)


def trained(engine: TorchEngine, steps: int) -> dict[str, Tensor]:
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        engine.step(Batch(x, (x[:, 0] > 0).long()), objectives.hard, 0.1)
    return {name: tensor.clone() for name, tensor in engine.weights().items()}


def two(folder: Path) -> tuple[Checkpoints, dict[int, dict[str, Tensor]]]:
    """Checkpoints of the steps 3 and 5, and the weights at each."""
    checkpoints, model, weights = Checkpoints(folder), engine(), {}
    for step, more in ((3, 3), (5, 2)):
        weights[step] = trained(model, more)
        checkpoints.save(model, step)
    return checkpoints, weights


def test_the_latest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    checkpoints, weights = two(tmp_path)
    model = engine(9)
    assert checkpoints.restore(model) == 5
    assert torch.equal(model.weights()["weight"], weights[5]["weight"])
    checkpoints.save(model, 7)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["step-000000005", "step-000000007"]
    assert checkpoints.note is None


@pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, harm: str) -> None:
    checkpoints, weights = two(tmp_path)
    path = tmp_path / "step-000000005" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    if harm != "missing":
        path.write_bytes(data if harm == "changed" else data[:-1])
    model = engine(9)
    assert checkpoints.restore(model) == checkpoints.step == 3
    assert torch.equal(model.weights()["weight"], weights[3]["weight"])
    assert checkpoints.note == (
        f"{path} is missing or was changed since it was written; went on from the checkpoint before, step 3"
    )
    checkpoints.save(model, 5)
    assert checkpoints.restore(engine(9)) == 5
    assert checkpoints.note is None
    assert "note" not in read_json(tmp_path / "latest.json")["before"]


def test_one_without_one_before_is_refused_in_a_sentence(tmp_path: Path) -> None:
    checkpoints, model = Checkpoints(tmp_path), engine()
    checkpoints.save(model, 1)
    (tmp_path / "step-000000001" / "state.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"file is missing or was changed .* restore it, or remove .* anew"):
        checkpoints.restore(model)

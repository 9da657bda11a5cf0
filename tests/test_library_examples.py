"""The programs in docs/library.md run as they stand there, and do what the document says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.ensemble.fusion import mean_logit, mean_probability
from kdscale.logits import Store, label

DOCUMENT = Path(__file__).parents[1] / "docs" / "library.md"
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S))


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A folder to run in, without a network and without threads that fight over busy cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
def test_the_examples_do_what_they_say(place: Path) -> None:
    names: dict = {}

    def run(heading: str) -> None:
        exec(compile(BLOCKS[heading], f"{DOCUMENT}: {heading}", "exec"), names)

    run("Write a store")
    z = teachers_log_probabilities(names)
    the_store_holds_all_rows(place / "digits-store", names, z)
    run("Read targets")
    targets_are_fused_as_asked(names, z)

    inputs, labels = torch.from_numpy(names["x"][1400:]), torch.from_numpy(names["y"][1400:])

    def accuracy(logits: torch.Tensor) -> float:
        return (logits.detach().cpu().argmax(1) == labels).float().mean().item()

    run("A plain PyTorch loop")
    losses = names["losses"]
    assert np.mean(losses[-28:]) < np.mean(losses[:28]) / 4
    assert accuracy(names["student"](inputs)) > 0.75
    run("Lightning")
    assert accuracy(names["lit"].net.cpu()(inputs)) > 0.75
    assert names["trainer"].callback_metrics["loss"] < losses[0] / 4
    run("Hugging Face Trainer")
    assert names["result"].training_loss < losses[0] / 2
    assert accuracy(names["vit"].eval().cpu()(pixel_values=inputs.view(-1, 1, 8, 8)).logits) > 0.75


def teachers_log_probabilities(names: dict) -> dict[str, np.ndarray]:
    """(1400, 10) float64 of each teacher."""
    return {name: teacher.predict_log_proba(names["x"][:1400]) for name, teacher in names["teachers"].items()}


def the_store_holds_all_rows(where: Path, names: dict, z: dict[str, np.ndarray]) -> None:
    store = Store.open(where)
    listing = store.listing()
    assert sorted(listing.members) == sorted(z) == ["logistic", "mlp-0", "mlp-1"]
    for name, log_p in z.items():
        assert listing.totals(name)[:2] == (4, 1400)
        blocks = [store.read(record.slot) for record in listing if record.member == name]
        assert [key for block in blocks for key in block.keys] == names["keys"]
        assert np.allclose(np.concatenate([block.logits for block in blocks]), log_p, rtol=2**-10, atol=1e-3)
    shards = [("part-0", names["keys"][:350], names["x"][:350])]
    assert label(store, "mlp-0", "version 1", pytest.fail, shards) == 0


def targets_are_fused_as_asked(names: dict, z: dict[str, np.ndarray]) -> None:
    def fused(members: list[str], rows: object, rule=mean_probability, temperature=2.0, weights=None) -> torch.Tensor:
        return rule(torch.from_numpy(np.stack([z[name][rows] for name in members])).float(), temperature, weights)

    def close(a: torch.Tensor, b: torch.Tensor) -> bool:
        return torch.allclose(a, b, atol=5e-3)

    everyone, some, part = names["targets"].members, [3, 1201], slice(350, 700)
    assert close(names["target"], fused(everyone, some))
    assert names["doubt"].shape == (2,)
    assert close(names["one_shard"]["p"], fused(everyone, part))
    assert set(names["one_shard"]) == {"p", "entropy", "mean_entropy", "mutual_information", "disagreement"}
    rows = [names["keys"][row] for row in some]
    assert close(names["pair"].of(rows)["p"], fused(["mlp-0", "mlp-1"], some, mean_logit, 4.0))
    weights = torch.tensor([3.0 if name == "mlp-0" else 1.0 for name in everyone]) / 5
    assert close(names["heavier"].of(rows)["p"], fused(everyone, some, weights=weights))
    assert sorted(names["left_out"]) == everyone
    for gone, targets in names["left_out"].items():
        assert close(targets.of(rows)["p"], fused([name for name in everyone if name != gone], some))


def test_each_example_is_short() -> None:
    assert list(BLOCKS) == [
        "Write a store",
        "Read targets",
        "A plain PyTorch loop",
        "Lightning",
        "Hugging Face Trainer",
    ]
    for heading, block in BLOCKS.items():
        lines = [line for line in block.splitlines() if line.strip() and not re.match(r"(from \S+ )?import ", line)]
        assert len(lines) <= 17, heading


def test_the_library_is_loaded_when_it_is_asked_for() -> None:
    program = """
import sys
import kdscale.logits, kdscale.ensemble, kdscale.logits.records
assert "torch" not in sys.modules
from kdscale.logits import *
from kdscale.ensemble import Targets
assert Store.open and label and StoreInfo and Slot and Targets
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=DOCUMENT.parent)

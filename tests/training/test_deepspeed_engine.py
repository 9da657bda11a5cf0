"""The DeepSpeed engine: JSON and recipe agree or are refused; what is saved comes back bit for bit, unpickled."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Student
from kdscale.training import objectives
from kdscale.training.deepspeed_engine import DeepSpeedEngine, merged_config

CPU = torch.device("cpu")


def student(deepspeed: dict[str, Any], **fields: Any) -> Student:
    return Student(**{"model": "mlp", "batch_size": 32, "workers": 2, "deepspeed": deepspeed, **fields})


@pytest.mark.parametrize(
    ("deepspeed", "micro", "accumulation"),
    [
        ({}, 16, 1),
        ({"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}, 16, 1),
        ({"gradient_accumulation_steps": 4}, 4, 4),
        ({"train_micro_batch_size_per_gpu": 8}, 8, 2),
        ({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 8}, 2, 8),
    ],
)
def test_batch_sizes_are_filled_in(deepspeed: dict, micro: int, accumulation: int) -> None:
    config = merged_config(student(deepspeed))
    assert config["train_batch_size"] == 32
    assert config["train_micro_batch_size_per_gpu"] == micro
    assert config["gradient_accumulation_steps"] == accumulation


@pytest.mark.parametrize(
    ("deepspeed", "fields", "sentence"),
    [
        ({"train_batch_size": 64}, {}, "train_batch_size is 64 but the recipe's student.batch_size is 32"),
        ({"train_micro_batch_size_per_gpu": 5}, {}, "is not the recipe's student.batch_size 32"),
        ({"gradient_accumulation_steps": 3}, {}, "is not the recipe's student.batch_size 32"),
        ({"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}, {}, "is not the recipe's"),
        ({"gradient_accumulation_steps": 0}, {}, "gradient_accumulation_steps is 0; give a whole number"),
        ({"fp16": {"enabled": True}}, {}, "fp16 does not work on a CPU"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, {}, "take one"),
        ({"bf16": {"enabled": True}}, {}, "set zero_optimization.stage to 1"),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": 0.1}}},
            {"lr": 0.2},
            "params.lr is 0.1 but the recipe's student.lr is 0.2",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, {"schedule": "cosine"}, "leave one out"),
        ({"fp16": True}, {}, "fp16 is True; DeepSpeed wants an object there"),
    ],
)
def test_contradictions_are_refused_by_name(deepspeed: dict, fields: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=r"student\.deepspeed: ") as caught:
        merged_config(student(deepspeed, **fields))
    assert sentence in str(caught.value)


def test_the_users_mapping_is_left_as_it_is() -> None:
    given = {"optimizer": {"type": "Adam", "params": {"lr": "auto"}}}
    merged = merged_config(student(given, lr=0.25))
    assert merged["optimizer"]["params"]["lr"] == 0.25
    assert given["optimizer"]["params"]["lr"] == "auto"


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one rank."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


CONFIGS: dict[str, dict[str, Any]] = {
    "zero0": {"gradient_clipping": 1.0},
    "zero0-autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
    "zero1": {"zero_optimization": {"stage": 1}},
    "zero1-bf16": {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
    "zero2-accumulating": {"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4},
    "zero3": {"zero_optimization": {"stage": 3}},
    "own-optimizer": {"optimizer": {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}}},
}


def engine_of(config: dict[str, Any], seed: int = 0) -> DeepSpeedEngine:
    model = zoo.build(ModelSpec(name="mlp", hidden=[12]), (1, 4, 4), 3, seed)
    return DeepSpeedEngine(model, student(config, workers=1, lr=0.01), CPU)


def steps(engine: DeepSpeedEngine, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        random = torch.Generator().manual_seed(step % 3)
        x = torch.randn(32, 1, 4, 4, generator=random)
        batch = Batch(x, x.flatten(1)[:, :3].argmax(1), {"p": x.flatten(1)[:, :3].softmax(1)})
        losses.append(float(engine.step(batch, objectives.distillation(2.0, 0.5), 0.01)["loss"]))
    return losses


@pytest.mark.slow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_equals_undisturbed(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    straight = engine_of(CONFIGS[name])
    losses = steps(straight, 0, 12)
    assert losses[9] < losses[0]  # the same batch
    first = engine_of(CONFIGS[name])
    steps(first, 0, 5)
    first.save(tmp_path / "saved")
    second = engine_of(CONFIGS[name], seed=9)
    second.load(tmp_path / "saved")
    assert steps(second, 5, 12) == losses[5:]
    a, b = straight.weights(), second.weights()
    assert a.keys() == zoo.build(ModelSpec(name="mlp", hidden=[12]), (1, 4, 4), 3, 0).state_dict().keys()
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == torch.float32 for key in a)


@pytest.mark.slow
@pytest.mark.usefixtures("group")
def test_accumulated_micro_batches_are_one_batch() -> None:
    whole, parts = engine_of({}), engine_of({"gradient_accumulation_steps": 4})
    assert steps(whole, 0, 4) == pytest.approx(steps(parts, 0, 4), rel=1e-5)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.mark.slow
@pytest.mark.usefixtures("group")
def test_a_checkpoint_that_carries_code_is_not_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = engine_of({})
    engine.save(tmp_path / "saved")
    path = next((tmp_path / "saved").rglob("*model_states.pt"))
    torch.save({"module": Bomb()}, path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        engine.load(tmp_path / "saved")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("group")
def test_what_deepspeed_refuses_is_one_sentence() -> None:
    with pytest.raises(UserError, match="DeepSpeed refuses this configuration"):
        engine_of({"zero_optimization": {"stage": 7}})


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_networks_with_convolutions_are_trained(group, stage: int) -> None:
    settings = student({"zero_optimization": {"stage": stage}}, batch_size=8, workers=1)
    engine = DeepSpeedEngine(zoo.build(ModelSpec(name="convnet", width=4), (3, 8, 8), 10, 0), settings, CPU)
    batch = Batch(torch.randn(8, 3, 8, 8), torch.arange(8))
    first, second = (float(engine.step(batch, objectives.hard, 0.01)["loss"]) for _ in range(2))
    assert second < first

"""The DeepSpeed engine: JSON and recipe agree or are refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import deepspeed_cases as cases
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Student
from kdscale.training import objectives
from kdscale.training.deepspeed_config import merged_config, what_counts
from kdscale.training.deepspeed_engine import DeepSpeedEngine

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
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, {}, "take one"),
        ({"bf16": {"enabled": True}}, {}, "set zero_optimization.stage to 1"),
        (
            {"zero_optimization": {"stage": 2, "round_robin_gradients": True}},
            {},
            "round_robin_gradients makes DeepSpeed",
        ),
        ({"bf16": {"enabled": "auto"}}, {}, 'bf16.enabled is "auto", which nothing decides here'),
        ({"zero_optimization": {"stage": 3, "mics_shard_size": 2}}, {}, "zero_optimization.mics_shard_size is 2"),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": "fast"}}},
            {},
            "params.lr is fast but the recipe's student.lr",
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": 0.1}}},
            {"lr": 0.2},
            "params.lr is 0.1 but the recipe's student.lr is 0.2",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, {"schedule": "cosine"}, "leave one out"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}},
            {"schedule": "constant", "lr": 0.2},
            "scheduler.params.warmup_max_lr is 0.1 but the recipe's student.lr is 0.2",
        ),
        ({"fp16": True}, {}, "fp16 is True; DeepSpeed wants an object there"),
        (
            {"bf16": {"enabled": True}, "torch_autocast": {"enabled": True}},
            {},
            "bf16 and torch_autocast are both enabled",
        ),
        ({"elasticity": {"enabled": True}}, {}, "elasticity has no place here, since kdscale keeps the batch"),
        ({"curriculum_learning": {}}, {}, "curriculum_learning has no place here, since kdscale orders the samples"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            {},
            "zero_optimization.offload_param is {'device': 'nvme'}; take {\"device\": \"cpu\"}",
        ),
    ],
)
def test_contradictions_are_refused_by_name(deepspeed: dict, fields: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=r"student\.deepspeed: ") as caught:
        merged_config(student(deepspeed, **fields))
    assert sentence in str(caught.value)


def test_a_schedulers_numbers_are_filled_in() -> None:
    given = {
        "scheduler": {"type": "WarmupDecayLR", "params": dict.fromkeys(("total_num_steps", "warmup_max_lr"), "auto")}
    }
    asked = student(given, lr=0.25, schedule="constant")
    assert merged_config(asked, steps=70)["scheduler"]["params"] == {"total_num_steps": 70, "warmup_max_lr": 0.25}
    assert merged_config(asked)["scheduler"]["params"]["total_num_steps"] == "auto"
    given["scheduler"]["params"]["cycle_momentum"] = "auto"
    with pytest.raises(UserError, match=r'scheduler\.params\.cycle_momentum is "auto", which only'):
        merged_config(asked, steps=70)


def test_half_precision_depends_on_the_device() -> None:
    half = student({"fp16": {"enabled": True}, "zero_optimization": {"stage": 1}})
    assert merged_config(half, "cuda")["fp16"]["enabled"]
    with pytest.raises(UserError, match="fp16 with ZeRO stage 0"):
        merged_config(student({"fp16": {"enabled": True}}), "cuda")


def test_how_the_work_is_divided_does_not_count() -> None:
    plain = {"gradient_clipping": 1.0}
    assert what_counts({**plain, "zero_optimization": {"stage": 3}, "activation_checkpointing": {}}) == plain


def test_what_is_auto_in_files_made_for_other_trainers_is_left_to_deepspeed() -> None:
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
    optimizer = {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto", "betas": "auto", "eps": "auto"}}
    given = {"zero_optimization": zero, "gradient_clipping": "auto", "optimizer": optimizer}
    merged = merged_config(student(given, lr=0.25))
    assert (merged["zero_optimization"], merged["gradient_clipping"]) == ({"stage": 3}, 0.0)
    assert merged["optimizer"]["params"] == {"lr": 0.25, "weight_decay": 0.0, "torch_adam": True}
    assert "torch_adam" not in merged_config(student(given, lr=0.25), "cuda")["optimizer"]["params"]


def test_the_users_mapping_is_left_as_it_is() -> None:
    given = {"optimizer": {"type": "Adam", "params": {"lr": "auto"}}}
    merged = merged_config(student(given, lr=0.25))
    assert merged["optimizer"]["params"]["lr"] == 0.25
    assert given["optimizer"]["params"]["lr"] == "auto"


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
def test_accumulated_micro_batches_are_one_batch() -> None:
    whole, parts = engine_of({}), engine_of({"gradient_accumulation_steps": 4})
    assert steps(whole, 0, 4) == pytest.approx(steps(parts, 0, 4), rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("group")
def test_what_deepspeed_refuses_is_one_sentence() -> None:
    with pytest.raises(UserError, match="DeepSpeed refuses this configuration"):
        engine_of({"zero_optimization": {"stage": 7}})


class Awkward(nn.Module):
    """Tied weights, a frozen layer, running statistics, and a buffer that is no part of the state but changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen, self.out = (nn.Linear(16, n) for n in (16, 16, 16, 3))
        self.second.weight = self.first.weight
        self.frozen.requires_grad_(False)
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("calls", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.norm(self.frozen(self.second(self.first(x.flatten(1)).relu()).relu()))
        return self.out(hidden.relu()) / self.calls


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_what_a_model_has_beside_parameters_is_kept(group, tmp_path: Path, stage: int) -> None:
    def engine() -> DeepSpeedEngine:
        return DeepSpeedEngine(Awkward(), student({"zero_optimization": {"stage": stage}}, workers=1), CPU)

    straight, resumed, read = engine(), engine(), Awkward()
    losses = cases.train(straight, 0, 3)
    straight.save(tmp_path)
    losses += cases.train(straight, 3, 6)
    resumed.load(tmp_path)
    assert cases.train(resumed, 3, 6) == losses[3:]
    weights = straight.weights()
    read.load_state_dict(weights)  # as the weights of a finished model are read
    assert torch.equal(read.first.weight, read.second.weight)
    assert all(torch.equal(weights[name], tensor) for name, tensor in resumed.weights().items())
    assert float(resumed.engine.module.calls) == 7


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_networks_with_convolutions_are_trained(group, stage: int) -> None:
    settings = student({"zero_optimization": {"stage": stage}}, batch_size=8, workers=1)
    engine = DeepSpeedEngine(zoo.build(ModelSpec(name="convnet", width=4), (3, 8, 8), 10, 0), settings, CPU)
    batch = Batch(torch.randn(8, 3, 8, 8), torch.arange(8))
    first, second = (float(engine.step(batch, objectives.hard, 0.01)["loss"]) for _ in range(2))
    assert second < first


STARTED = """
import sys, torch, torch.distributed as dist
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Student
from kdscale.training.deepspeed_engine import DeepSpeedEngine
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
spec = ModelSpec.model_validate({"name": "mlp", "hidden": [4]})
settings = Student(model=spec, batch_size=8, workers=1, deepspeed={"zero_optimization": {"stage": 1}})
before = torch.compile
DeepSpeedEngine(zoo.build(spec, (1, 2, 2), 3, 0), settings, torch.device("cpu"))
print(torch.compile is before, "torch._inductor.compile_fx" in sys.modules)
"""


def test_an_engine_starts_without_loading_torchs_compiler() -> None:
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    command = [sys.executable, "-c", STARTED]
    done = subprocess.run(command, env={**os.environ, **one}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True False"

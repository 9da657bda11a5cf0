"""The engine of students, and of members too big for one device: `deepspeed.initialize` as the user's JSON asks for.

The recipe fills in batch sizes and, unless the JSON names its own, optimiser and learning rate; contradictions
between the two are refused by name. Checkpoints are kdscale's own (`sharded`), written by each rank and read by any
number of ranks under any ZeRO stage.
"""

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.recipe import Student, Teachers
from kdscale.training import sharded
from kdscale.training.engine import format_of, in_format, reseed
from kdscale.training.objectives import Losses, Objective

Settings = Student | Teachers


def merged_config(settings: Settings, device_type: str = "cpu") -> dict[str, Any]:
    """The DeepSpeed configuration of a student or member: the user's, completed from the recipe.

    "auto" and absent values are filled in. The global batch is ``settings.batch_size``.

    Raises:
        UserError: JSON and recipe contradict each other, or the JSON asks for what the device cannot do.
    """
    assert isinstance(settings.deepspeed, dict)
    config = copy.deepcopy(settings.deepspeed)
    section = settings.section
    name = f"{section}.deepspeed"
    for key in ("fp16", "bf16", "zero_optimization", "optimizer", "scheduler", "torch_autocast"):
        if key in config and not isinstance(config[key], dict):
            raise UserError(f"{name}: {key} is {config[key]!r}; DeepSpeed wants an object there, such as {{...}}")

    def given(key: str) -> int | None:
        value = config.get(key)
        if value in (None, "auto"):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f'{name}: {key} is {value!r}; give a whole number or "auto"')
        return value

    per_rank, uneven = divmod(settings.batch_size, settings.workers)
    total, micro, accumulation = (
        given("train_batch_size"),
        given("train_micro_batch_size_per_gpu"),
        given("gradient_accumulation_steps"),
    )
    if total is not None and total != settings.batch_size:
        raise UserError(
            f"{name}: train_batch_size is {total} but the recipe's {section}.batch_size is {settings.batch_size}; "
            "make them equal or leave it out of the JSON"
        )
    if micro is None:
        micro, uneven = divmod(per_rank, accumulation or 1)
    if uneven or micro * (accumulation or per_rank // micro) * settings.workers != settings.batch_size:
        raise UserError(
            f"{name}: train_micro_batch_size_per_gpu {micro} x gradient_accumulation_steps {accumulation or 1} "
            f"x {section}.workers {settings.workers} is not the recipe's {section}.batch_size {settings.batch_size}"
        )
    config.setdefault("gradient_clipping", 0.0)  # DeepSpeed's own default is to clip at 1
    config["train_batch_size"] = settings.batch_size
    config["train_micro_batch_size_per_gpu"] = micro
    config["gradient_accumulation_steps"] = per_rank // micro
    _check_optimizer(config, settings, name)
    fp16, bf16 = _enabled(config, "fp16"), _enabled(config, "bf16")
    if fp16 and bf16:
        raise UserError(f"{name}: fp16 and bf16 are both enabled; take one")
    if fp16 and device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise UserError(f"{name}: fp16 does not work on this CPU; take bf16 or float32")
    if bf16 and _stage(config) == 0:
        raise UserError(
            f"{name}: bf16 with ZeRO stage 0 steps the optimiser once too often in DeepSpeed; "
            "set zero_optimization.stage to 1, or use torch_autocast"
        )
    if fp16 and _stage(config) == 0:
        raise UserError(
            f"{name}: fp16 with ZeRO stage 0 keeps its float32 weights where checkpoints cannot reach them; "
            "set zero_optimization.stage to 1"
        )
    _check_offload(config, name)
    return config


def _check_offload(config: dict[str, Any], name: str) -> None:
    """Offloading goes to the CPU's memory; torch's AdamW may step there, which needs no compiler."""
    zero = config.get("zero_optimization") or {}
    for key in ("offload_optimizer", "offload_param"):
        target = zero.get(key)
        if target is not None and (not isinstance(target, dict) or target.get("device") not in ("cpu", "none")):
            raise UserError(
                f'{name}: zero_optimization.{key} is {target!r}; take {{"device": "cpu"}}, since checkpoints do not reach '
                "what is offloaded elsewhere"
            )
    if (zero.get("offload_optimizer") or {}).get("device") == "cpu" and "optimizer" not in config:
        config.setdefault("zero_force_ds_cpu_optimizer", False)


def _check_optimizer(config: dict[str, Any], settings: Settings, name: str) -> None:
    """Fill in the optimiser's numbers from the recipe; what both say must be equal."""
    params = config["optimizer"].setdefault("params", {}) if "optimizer" in config else {}
    for key, recipe_value in (("lr", settings.lr), ("weight_decay", settings.weight_decay)):
        value = params.setdefault(key, recipe_value)
        if value == "auto":
            params[key] = recipe_value
        elif float(value) != recipe_value:
            raise UserError(
                f"{name}: optimizer.params.{key} is {value} but the recipe's {settings.section}.{key} is {recipe_value}; "
                "make them equal or leave one out"
            )
    if "scheduler" in config and settings.schedule != "constant":
        raise UserError(
            f"{name}: has a scheduler, and the recipe has {settings.section}.schedule = {settings.schedule}; leave one out"
        )


def _enabled(config: dict[str, Any], key: str) -> bool:
    return bool((config.get(key) or {}).get("enabled", False))


def _stage(config: dict[str, Any]) -> int:
    return int((config.get("zero_optimization") or {}).get("stage", 0))


def prepare(device: torch.device) -> None:
    """Settings that must stand before DeepSpeed is first used in a process."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # Built on CPUs even when unused (a minute and a compiler); gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


class DeepSpeedEngine:
    """One rank of a DeepSpeed engine; the process group must be up."""

    def __init__(self, model: nn.Module, settings: Settings, device: torch.device):
        prepare(device)
        import deepspeed

        config = merged_config(settings, device.type)
        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device
        self.format = format_of(
            model
        )  # of samples: DeepSpeed flattens weights and sends them as bytes, which wants plain ones
        model.to(device)
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        model.train()
        optimizer = None
        if "optimizer" not in config:
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
            )
        self.sets_rate = "scheduler" not in config
        self.parts = config["gradient_accumulation_steps"]
        try:
            self.engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, model_parameters=list(model.parameters()), config=config
            )
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"{settings.section}.deepspeed: DeepSpeed refuses this configuration ({_first_line(error)})"
            ) from error
        if self.world == 1 and _stage(config) == 0:
            self.engine.enable_backward_allreduce = False  # a copy to and fro, with nobody to reduce with
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype = next((dtype for key, dtype in low.items() if _enabled(config, key)), torch.float32)

    @property
    def models(self) -> "tuple[DeepSpeedEngine]":
        return (self,)

    def seed(self, seeds: Sequence[int]) -> None:
        reseed(seeds[0], self.device)

    def step(self, batch: Batch, objective: Objective, lr: float) -> Losses:
        if self.sets_rate:
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr
        sums: Losses = {}
        for part in batch.split(self.parts):
            logits = self.engine(in_format(part.x.to(self.dtype), self.format))
            losses = objective(logits, part)
            self.engine.backward(losses["loss"])
            self.engine.step()
            for name, value in losses.items():
                share = value.detach() / self.parts
                sums[name] = sums[name] + share if name in sums else share
        return sums

    def snapshot(self) -> sharded.Writer:
        return sharded.snapshot(self.engine, self.rank, self.world)

    def save(self, folder: Path) -> None:
        self.snapshot()(folder)

    def load(self, folder: Path) -> None:
        sharded.load(self.engine, folder)

    def weights(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        model = self.engine.module
        state = {
            name: tensor.detach().float().cpu() for name, tensor in model.named_buffers() if tensor.is_floating_point()
        }
        state |= {name: tensor.cpu() for name, tensor in model.named_buffers() if not tensor.is_floating_point()}
        for name, parameter in model.named_parameters():
            full = safe_get_full_fp32_param(parameter)
            if full is None:
                with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                    full = parameter.detach().float().clone()
            state[name] = full.detach().float().cpu().clone().contiguous()
        return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The engine of students, and of members too big for one device: `deepspeed.initialize` as the user's JSON asks for.

The recipe completes the JSON (`deepspeed_config`). Checkpoints are kdscale's own (`sharded`), written by each rank and read by any
number of ranks under any ZeRO stage.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.training import sharded
from kdscale.training.deepspeed_config import Settings, enabled, merged_config, stage
from kdscale.training.engine import format_of, in_format, reseed
from kdscale.training.normalisation import normalise_in_float32
from kdscale.training.objectives import Losses, Objective
from kdscale.training.recompute import recompute


def prepare(device: torch.device) -> None:
    """Settings that must stand before DeepSpeed is first used in a process."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # Built on CPUs even when unused (a minute and a compiler); gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def _leave_muon_alone(config: dict[str, Any]) -> None:
    """Import DeepSpeed's Muon without having it compiled, where it is not what trains.

    `deepspeed.initialize` imports it whatever the optimiser is, and a decorator there loads torch's compiler: a second of each rank's
    start, a third of it.
    """
    if (config.get("optimizer") or {}).get("type") == "Muon":
        return

    def as_it_is(function: Any = None, **_: Any) -> Any:
        return as_it_is if function is None else function

    with patch.object(torch, "compile", as_it_is), suppress(ImportError):
        import_module("deepspeed.runtime.zero.muon.original_muon")


class DeepSpeedEngine:
    """One rank of a DeepSpeed engine; the process group must be up."""

    def __init__(self, model: nn.Module, settings: Settings, device: torch.device, steps: int | None = None):
        """`steps`: of the whole training, which DeepSpeed's own schedulers may ask for."""
        prepare(device)
        import deepspeed

        config = merged_config(settings, device.type, steps)
        _leave_muon_alone(config)
        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device
        self.format = format_of(model)  # of samples
        model.to(device)  # and its weights become plain: DeepSpeed flattens them and sends them as bytes
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        model.train()
        if "activation_checkpointing" in config and not recompute(model):
            raise UserError(
                f"{settings.section}.deepspeed: activation_checkpointing computes blocks again, and the model has no Sequential "
                "or ModuleList of any; leave it out"
            )
        if enabled(config, "bf16") or enabled(config, "fp16"):
            normalise_in_float32(model)
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
        if self.world == 1 and stage(config) == 0:
            self.engine.enable_backward_allreduce = False  # a copy to and fro, with nobody to reduce with
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype = next((dtype for key, dtype in low.items() if enabled(config, key)), torch.float32)

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
            logits = self.logits(part.x)
            losses = objective(logits, part)
            self.engine.backward(losses["loss"])
            self.engine.step()
            for name, value in losses.items():
                share = value.detach() / self.parts
                sums[name] = sums[name] + share if name in sums else share
        return sums

    def logits(self, x: Tensor) -> Tensor:
        """(B, *shape) float32 -> the model's outputs; every rank calls it as often as the others."""
        outputs: Tensor = self.engine(in_format(x.to(self.dtype), self.format))
        return outputs

    def snapshot(self) -> sharded.Writer:
        return sharded.snapshot(self.engine, self.rank, self.world)

    def save(self, folder: Path) -> None:
        self.snapshot()(folder)

    def load(self, folder: Path) -> None:
        sharded.load(self.engine, folder)

    def weights(self) -> dict[str, Tensor]:
        """Under the names of the model's state: tied weights have several, buffers that are not persistent have none."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        model = self.engine.module
        whole: dict[int, Tensor] = {}
        for parameter in model.parameters():
            full = safe_get_full_fp32_param(parameter)
            if full is None:
                with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                    full = parameter.detach().float().clone()
            whole[id(parameter)] = full.detach().cpu()
        state = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            value = whole.get(id(tensor), tensor.detach().cpu())
            state[name] = (value.float() if value.is_floating_point() else value).clone().contiguous()
        return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

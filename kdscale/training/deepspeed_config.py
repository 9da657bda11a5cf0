"""DeepSpeed's JSON and the recipe, made into one configuration, or refused where they contradict each other.

The recipe owns what decides the result: the global batch, the learning rate, the order of samples. The JSON owns how
DeepSpeed gets there. "auto" and what is absent is filled in.
"""

import copy
from typing import Any

import torch

from kdscale.errors import UserError
from kdscale.recipe import Student, Teachers

Settings = Student | Teachers
OBJECTS = (
    *("fp16", "bf16", "zero_optimization", "optimizer", "scheduler", "torch_autocast", "activation_checkpointing"),
)
REFUSED = {
    "elasticity": "kdscale keeps the batch and lets the number of ranks change (workers)",
    "data_efficiency": "kdscale orders the samples",
    "curriculum_learning": "kdscale orders the samples",
    "amp": "take bf16, fp16 or torch_autocast",
    "pipeline": "ranks are data-parallel",
    "tensor_parallel": "ranks are data-parallel",
    "sequence_parallel_size": "ranks are data-parallel",
    "compression_training": "the student is the compressed model",
}
"""Sections that would change what kdscale decides, and what it says of them."""
PEAKS = ("warmup_max_lr", "cycle_max_lr")
"""What DeepSpeed's schedulers call the peak learning rate."""


def merged_config(settings: Settings, device_type: str = "cpu", steps: int | None = None) -> dict[str, Any]:
    """The DeepSpeed configuration of a student or member: the user's, completed from the recipe.

    Args:
        settings: whose global batch is ``settings.batch_size``.
        steps: of the whole training, for a scheduler's "auto"; while it is not known, "auto" stays.

    Raises:
        UserError: JSON and recipe contradict each other, or the JSON asks for what the device cannot do.
    """
    assert isinstance(settings.deepspeed, dict)
    config = copy.deepcopy(settings.deepspeed)
    name = f"{settings.section}.deepspeed"
    for key in OBJECTS:
        if key in config and not isinstance(config[key], dict):
            raise UserError(f"{name}: {key} is {config[key]!r}; DeepSpeed wants an object there, such as {{...}}")
    for key, why in REFUSED.items():
        if key in config:
            raise UserError(f"{name}: {key} has no place here, since {why}; leave it out")
    _fill_batches(config, settings, name)
    config.setdefault("gradient_clipping", 0.0)  # DeepSpeed's own default is to clip at 1
    _fill_optimizer(config, settings, name)
    _fill_scheduler(config, settings, name, steps)
    _check_precision(config, name, device_type)
    _check_offload(config, name)
    return config


def enabled(config: dict[str, Any], key: str) -> bool:
    return bool((config.get(key) or {}).get("enabled", False))


def stage(config: dict[str, Any]) -> int:
    return int((config.get("zero_optimization") or {}).get("stage", 0))


def what_counts(config: dict[str, Any] | str) -> dict[str, Any] | str:
    """What of a configuration decides the result beyond rounding: all but how ZeRO divides the work, and what is logged.

    A training that was begun under one ZeRO stage may therefore go on under another.
    """
    if isinstance(config, str):
        return config
    only_how = {"zero_optimization", "activation_checkpointing", "steps_per_print", "wall_clock_breakdown"}
    return {key: value for key, value in config.items() if key not in only_how}


def _fill_batches(config: dict[str, Any], settings: Settings, name: str) -> None:
    def given(key: str) -> int | None:
        value = config.get(key)
        if value in (None, "auto"):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f'{name}: {key} is {value!r}; give a whole number or "auto"')
        return value

    section = settings.section
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
    config["train_batch_size"] = settings.batch_size
    config["train_micro_batch_size_per_gpu"] = micro
    config["gradient_accumulation_steps"] = per_rank // micro


def _fill_optimizer(config: dict[str, Any], settings: Settings, name: str) -> None:
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


def _fill_scheduler(config: dict[str, Any], settings: Settings, name: str, steps: int | None) -> None:
    """Fill in a scheduler's "auto" from the recipe and the length of the training."""
    if "scheduler" not in config:
        return
    section = settings.section
    if settings.schedule != "constant":
        raise UserError(
            f"{name}: has a scheduler, and the recipe has {section}.schedule = {settings.schedule}; leave one out"
        )
    params = config["scheduler"].setdefault("params", {})
    for key in PEAKS:
        if isinstance(params.get(key), int | float) and float(params[key]) != settings.lr:
            raise UserError(
                f"{name}: scheduler.params.{key} is {params[key]} but the recipe's {section}.lr is {settings.lr}; "
                "make them equal or leave one out"
            )
    known: dict[str, float] = dict.fromkeys(PEAKS, settings.lr)
    if steps is not None:
        rise = max(2, round(settings.warmup * steps))
        known |= {"total_num_steps": steps, "warmup_num_steps": rise}
        known |= {"cycle_first_step_size": rise, "cycle_second_step_size": max(1, steps - rise)}
    for key, value in params.items():
        if value == "auto":
            if key in known:
                params[key] = known[key]
            elif steps is not None:
                raise UserError(f'{name}: scheduler.params.{key} is "auto", which only {", ".join(known)} may be')


def _check_precision(config: dict[str, Any], name: str, device_type: str) -> None:
    modes = [key for key in ("fp16", "bf16", "torch_autocast") if enabled(config, key)]
    if len(modes) > 1:
        raise UserError(f"{name}: {modes[0]} and {modes[1]} are both enabled; take one")
    if "fp16" in modes and device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise UserError(f"{name}: fp16 does not work on this CPU; take bf16 or float32")
    if "bf16" in modes and stage(config) == 0:
        raise UserError(
            f"{name}: bf16 with ZeRO stage 0 steps the optimiser once too often in DeepSpeed; "
            "set zero_optimization.stage to 1, or use torch_autocast"
        )
    if "fp16" in modes and stage(config) == 0:
        raise UserError(
            f"{name}: fp16 with ZeRO stage 0 keeps its float32 weights where checkpoints do not reach them; "
            "set zero_optimization.stage to 1"
        )


def _check_offload(config: dict[str, Any], name: str) -> None:
    """Offloading goes to the CPU's memory, where torch's AdamW may step, which needs no compiler."""
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

"""What two ranks do with every file of configs/deepspeed: train, save, resume, under this stage and under others."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kdscale.data.batches import Batch
from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Student
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.deepspeed_engine import DeepSpeedEngine

FILES = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "configs" / "deepspeed").iterdir())
}


def _zero(stage: int, **options: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **options}}


_CPU = {"device": "cpu"}
_BF16, _AUTOCAST = {"bf16": {"enabled": True}}, {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
_PARTS = {"gradient_accumulation_steps": 2, "gradient_clipping": 0.5}
_DECAY = {"total_num_steps": "auto", "warmup_num_steps": "auto", "warmup_max_lr": "auto"}
COMBINED: dict[str, dict[str, Any]] = {
    "zero0, clipped": {**_zero(0), **_PARTS},
    "zero1, bf16, clipped": {**_zero(1), **_BF16, **_PARTS},
    "zero2, bf16, clipped": {**_zero(2), **_BF16, **_PARTS},
    "zero3, bf16, clipped": {**_zero(3), **_BF16, **_PARTS},
    "zero1, autocast": {**_zero(1), **_AUTOCAST},
    "zero2, autocast": {**_zero(2), **_AUTOCAST},
    "zero3, autocast, clipped": {**_zero(3), **_AUTOCAST, **_PARTS},
    "zero1, offload, bf16": {**_zero(1, offload_optimizer=_CPU), **_BF16},
    "zero2, offload, AdamW": {**_zero(2, offload_optimizer=_CPU), "optimizer": {"type": "AdamW"}},
    "zero3, offload, bf16": {**_zero(3, offload_optimizer=_CPU, offload_param=_CPU), **_BF16},
    "zero3, Adam, WarmupDecayLR": {
        **_zero(3),
        "optimizer": {"type": "Adam"},
        "scheduler": {"type": "WarmupDecayLR", "params": _DECAY},
    },
    "zero0, Adagrad": {"optimizer": {"type": "Adagrad"}},
    "zero3, Adagrad": {**_zero(3), "zero_allow_untested_optimizer": True, "optimizer": {"type": "Adagrad"}},
    "zero3, small groups": _zero(3, sub_group_size=50, stage3_param_persistence_threshold=20),
    "zero2, overlapping": _zero(2, overlap_comm=True, contiguous_gradients=False),
    "zero3, recompute": {**_zero(3), "activation_checkpointing": {}},
    "zero1, recompute, bf16": {**_zero(1), **_BF16, "activation_checkpointing": {}},
    "zero3, second copy": _zero(3, zero_hpz_partition_size=2),
}
"""What the files do not say, alone or together; the last changes DeepSpeed's groups for the rest of a process."""
MLP = ModelSpec(name="mlp", hidden=[13, 7])
RESNET = ModelSpec(name="wide_resnet", depth=10, width=1, dropout=0.3)
STEPS, HALF = 6, 3
BATCH, SIDE = 32, 4


def engine(config: dict[str, Any], seed: int = 0, model: ModelSpec = MLP, frozen: bool = False) -> DeepSpeedEngine:
    net = zoo.build(model, (1, SIDE, SIDE), 3, seed)
    if frozen:
        next(net.parameters()).requires_grad_(False)
    schedule = {"schedule": "constant"} if "scheduler" in config else {}
    settings = Student(
        model=model, batch_size=BATCH, workers=dist.get_world_size(), deepspeed=config, lr=0.01, **schedule
    )
    return DeepSpeedEngine(net, settings, torch.device("cpu"), STEPS)


def train(trained: DeepSpeedEngine, first: int, last: int) -> list[float]:
    """The global losses of steps, whose global batches do not depend on the number of ranks."""
    losses = []
    for step in range(first, last):
        random = torch.Generator().manual_seed(step % 3)
        x = torch.randn(BATCH, 1, SIDE, SIDE, generator=random)
        y = x.flatten(1)[:, :3].argmax(1)
        own = slice(trained.rank * BATCH // trained.world, (trained.rank + 1) * BATCH // trained.world)
        batch = Batch(x[own], y[own], {"p": x[own].flatten(1)[:, :3].softmax(1)})
        trained.seed([100 * step + trained.rank])
        loss = trained.step(batch, objectives.distillation(2.0, 0.5), 0.01)["loss"].detach().clone()
        if trained.world > 1:
            dist.all_reduce(loss)
        losses.append(float(loss) / trained.world)
    return losses


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def damaged(folder: Path) -> dict[str, Any]:
    """What becomes of a training whose latest checkpoint, or both, lost a bit of the second rank's file."""
    straight, checkpoints = engine(FILES["zero1"]), Checkpoints(folder)
    train(straight, 0, 2)
    checkpoints.save(straight, 2)
    train(straight, 2, HALF)
    checkpoints.save(straight, HALF)
    expected = train(straight, HALF, STEPS)
    _lose_a_bit(folder / "step-000000003" / "rank-00001.safetensors")
    again = engine(FILES["zero1"], seed=9)
    step = checkpoints.restore(again)
    seen = {"step": step, "note": checkpoints.note, "same": train(again, step, STEPS)[HALF - step :] == expected}
    _lose_a_bit(folder / "step-000000002" / "rank-00000.safetensors")
    try:
        checkpoints.restore(again)
    except UserError as error:
        seen["refused"] = str(error)
    return seen


def _lose_a_bit(path: Path) -> None:
    dist.barrier()
    if dist.get_rank() == 0:
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    dist.barrier()


def two_ranks(rank: int, ones: str, twos: str) -> dict[str, Any]:
    """Every file; then the checkpoints of one rank, and each stage's under each other stage."""
    found: dict[str, Any] = {"files": {}, "frozen": {}, "across": {}, "from one": {}, "recompute": {}, "refused": {}}
    for name, config in FILES.items():
        model = RESNET if name in ("recompute", "bf16") else MLP
        try:
            straight = engine(config, model=model)
        except UserError as error:
            found["refused"][name] = str(error)
            continue
        losses = train(straight, 0, STEPS)
        whole = straight.weights()
        first = engine(config, model=model)
        train(first, 0, HALF)
        checkpoints = Checkpoints(Path(twos) / name)
        checkpoints.save(first, HALF, wait=False)
        train(first, HALF, HALF + 1)  # what is being written does not change any more
        checkpoints.settle()
        dist.barrier()
        second = engine(config, seed=9, model=model)
        assert Checkpoints(Path(twos) / name).restore(second) == HALF
        again = train(second, HALF, STEPS)
        found["files"][name] = {
            "losses": losses,
            "resumed": again == losses[HALF:],
            "weights": differ(whole, second.weights()),
        }
    for name in ("zero1", "zero3"):
        before = engine(FILES[name], frozen=True)
        train(before, 0, HALF)
        before.save(Path(twos) / f"frozen-{name}")
        dist.barrier()
        after = engine(FILES[name], seed=9, frozen=True)
        after.load(Path(twos) / f"frozen-{name}")
        found["frozen"][name] = differ(before.weights(), after.weights())
    for saved in ("zero0", "zero2", "zero3"):
        for under in ("zero0", "zero1", "zero2", "zero3", "zero3_offload"):
            other = engine(FILES[under], seed=9)
            Checkpoints(Path(twos) / saved).restore(other)
            found["across"][f"{saved} under {under}"] = train(other, HALF, STEPS)
    for under in ("zero0", "zero1", "zero2", "zero3"):
        other = engine(FILES[under], seed=9)
        Checkpoints(Path(ones) / "zero1").restore(other)
        found["from one"][under] = train(other, HALF, STEPS)
    found["damaged"] = damaged(Path(twos) / "damaged")
    for name in ("zero1", "zero3"):
        plain, again = (
            engine(FILES[name], model=RESNET),
            engine({**FILES[name], "activation_checkpointing": {}}, 0, RESNET),
        )
        train(plain, 0, HALF)
        train(again, 0, HALF)
        found["recompute"][name] = differ(plain.weights(), again.weights())
    found["combined"] = {name: combined(config, Path(twos) / name) for name, config in COMBINED.items()}
    return found


def combined(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Whether it learns, and whether it resumes bit for bit."""
    model = RESNET if "activation_checkpointing" in config else MLP
    straight = engine(config, model=model)
    losses = train(straight, 0, HALF)
    Checkpoints(folder).save(straight, HALF)
    losses += train(straight, HALF, STEPS)
    resumed = engine(config, seed=9, model=model)
    Checkpoints(folder).restore(resumed)
    same = train(resumed, HALF, STEPS) == losses[HALF:]
    return {"losses": losses, "resumed": same, "weights": differ(straight.weights(), resumed.weights())}

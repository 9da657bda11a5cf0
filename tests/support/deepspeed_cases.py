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
    for name in ("zero1", "zero3"):
        plain, again = (
            engine(FILES[name], model=RESNET),
            engine({**FILES[name], "activation_checkpointing": {}}, 0, RESNET),
        )
        train(plain, 0, HALF)
        train(again, 0, HALF)
        found["recompute"][name] = differ(plain.weights(), again.weights())
    return found

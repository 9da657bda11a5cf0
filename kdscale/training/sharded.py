"""The state of a DeepSpeed engine in files: each rank writes its own, and any number of ranks under any ZeRO stage reads them.

    rank-00000.safetensors    this rank's pieces, KIND:NAME, with where each begins in its parameter
    shared.safetensors        buffers, and frozen parameters' dtype apart nothing else; rank 0's
    shared.json               counters, scheduler, loss scale

Written without gathering anything, read by slices: a rank takes from the files what its own pieces cover. No pickle.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdscale.errors import UserError
from kdscale.files import read_json, write_json, written_aside
from kdscale.training.pieces import WEIGHT, Held, Piece

SHARED = "shared"
COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
MOVING = ("lr", "initial_lr", "betas", "momentum", "step")
"""Of an optimiser's groups: what schedulers and steps change."""
Writer = Callable[[Path], Sequence[Path]]
"""Writes a rank's files into a folder; which they are."""


def snapshot(engine: Any, rank: int, world: int) -> Writer:
    """This rank's part of the state as it is now, copied: training may go on while it is written."""
    held = Held(engine)
    tensors: dict[str, Tensor] = {}
    places: dict[str, list[int]] = {}
    numbers: dict[str, dict[str, float]] = {}
    for piece in held.pieces:
        first, last = piece.share(rank, world)
        if first == last:
            continue
        each, own = held.state(piece)
        for kind, values in {WEIGHT: piece.weight, **each}.items():
            tensors[f"{kind}:{piece.name}"] = values[first:last].detach().to("cpu", copy=True)
        places[piece.name] = [piece.start + first, piece.total]
        if own:
            numbers[piece.name] = own
    shared = (_buffers(engine), _moving(engine, held)) if rank == 0 else None

    def write(folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank-{rank:05d}.safetensors"
        about = {"places": json.dumps(places), "numbers": json.dumps(numbers)}
        with written_aside(path) as temporary:
            save_file(tensors, temporary, about)
        if shared is None:
            return [path]
        with written_aside(folder / f"{SHARED}.safetensors") as temporary:
            save_file(shared[0], temporary)
        write_json(folder / f"{SHARED}.json", {"ranks": world, **shared[1]})
        return [path, folder / f"{SHARED}.safetensors", folder / f"{SHARED}.json"]

    return write


@torch.no_grad()
def load(engine: Any, folder: Path) -> None:
    """Read what this rank holds from files that any number of ranks wrote; every rank calls it.

    Raises:
        UserError: the files are of another model.
    """
    moving = read_json(folder / f"{SHARED}.json")
    assert moving is not None, f"{folder} was committed, so it is whole"
    held = Held(engine)
    with ExitStack() as stack:
        files = [
            stack.enter_context(safe_open(folder / f"rank-{rank:05d}.safetensors", framework="pt"))
            for rank in range(moving["ranks"])
        ]
        saved = _Saved(files)
        for piece in held.pieces:
            saved.into(held, piece, folder)
    buffers = dict(engine.module.named_buffers())
    for name, saved_buffer in load_file(folder / f"{SHARED}.safetensors").items():
        buffers[name].copy_(saved_buffer)
    held.written()
    _move(engine, held, moving)


class _Saved:
    """The pieces in a checkpoint's files."""

    def __init__(self, files: Sequence[Any]):
        self.parts: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        """(file, where its part begins) of each parameter."""
        self.numbers: dict[str, dict[str, float]] = {}
        self.totals: dict[str, int] = {}
        self.kinds: dict[str, list[str]] = defaultdict(list)
        for file in files:
            about = file.metadata() or {}
            for name, (start, total) in json.loads(about["places"]).items():
                self.parts[name].append((file, start))
                self.totals[name] = total
            self.numbers |= json.loads(about["numbers"])
            for key in file.keys():  # noqa: SIM118  # not a mapping
                kind, _, name = key.partition(":")
                if kind not in self.kinds[name]:
                    self.kinds[name].append(kind)

    def into(self, held: Held, piece: Piece, folder: Path) -> None:
        if self.totals.get(piece.name) != piece.total:
            raise UserError(
                f"{folder}: the checkpoint is of another model ({piece.name} has {self.totals.get(piece.name, 0)} elements "
                f"there and {piece.total} here); remove it to begin anew"
            )
        for kind in self.kinds[piece.name]:
            if kind != WEIGHT and piece.flat is None:
                continue
            values = self._read(kind, piece)
            target = piece.weight if kind == WEIGHT else held.open(piece, kind, values.dtype)
            target.copy_(values)
        for kind, value in self.numbers.get(piece.name, {}).items():
            if piece.flat is not None:
                held.set_number(piece, kind, value)

    def _read(self, kind: str, piece: Piece) -> Tensor:
        """(n,) values of a piece, put together from all parts that it meets."""
        found: list[tuple[int, Tensor]] = []
        first, last = piece.start, piece.start + piece.length
        for file, start in self.parts[piece.name]:
            part = file.get_slice(f"{kind}:{piece.name}")
            (length,) = part.get_shape()
            low, high = max(first, start), min(last, start + length)
            if low < high:
                found.append((low, part[low - start : high - start]))
        values = torch.cat([part for _, part in sorted(found, key=lambda place: place[0])])
        assert values.numel() == piece.length, f"{kind}:{piece.name} is whole in a committed checkpoint"
        return values


def _buffers(engine: Any) -> dict[str, Tensor]:
    """The buffers that a model's state has: of rank 0, whose are kept at the end as well."""
    state = engine.module.state_dict()
    return {
        name: buffer.detach().to("cpu", copy=True).contiguous()
        for name, buffer in engine.module.named_buffers()
        if name in state
    }


def _moving(engine: Any, held: Held) -> dict[str, Any]:
    """Whatever else changes from step to step."""
    scaler = getattr(held.zero, "loss_scaler", None)
    scheduler = engine.lr_scheduler
    autocast = getattr(engine, "torch_autocast_z0_gradscaler", None)
    return {
        "counters": {name: int(getattr(engine, name)) for name in COUNTERS},
        "groups": [{key: group[key] for key in MOVING if key in group} for group in held.optimizer.param_groups],
        "scheduler": scheduler.state_dict() if hasattr(scheduler, "state_dict") else None,
        "scaler": {k: v for k, v in vars(scaler).items() if isinstance(v, bool | int | float)} if scaler else None,
        "autocast": autocast.state_dict() if autocast is not None else None,
    }


def _move(engine: Any, held: Held, moving: dict[str, Any]) -> None:
    for name, value in moving["counters"].items():
        setattr(engine, name, value)
    for group, saved in zip(held.optimizer.param_groups, moving["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    if moving["scheduler"] is not None and engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(moving["scheduler"])
    scaler = getattr(held.zero, "loss_scaler", None)
    if moving["scaler"] is not None and scaler is not None:
        vars(scaler).update(moving["scaler"])
    autocast = getattr(engine, "torch_autocast_z0_gradscaler", None)
    if moving["autocast"] and autocast is not None:
        autocast.load_state_dict(moving["autocast"])

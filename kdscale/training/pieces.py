"""What a rank holds of each parameter, under any ZeRO stage, as views that can be read and written in place.

DeepSpeed's own checkpoints are bound to their number of ranks and their stage. A parameter's name and a place in it are
not: a piece is a stretch of one flattened parameter, with the float32 weight and whatever the optimiser keeps of each
element. Checkpoints are made of pieces (`sharded`), so any partition can be read into any other, and nobody ever gathers
a whole model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdscale.errors import UserError

WEIGHT = "weight"


@dataclass(frozen=True)
class Piece:
    """A stretch of one flattened parameter."""

    name: str
    start: int
    total: int
    """Elements of the whole parameter."""
    weight: Tensor
    """(n,) float32, a view of what the optimiser steps."""
    flat: Tensor | None
    """What the optimiser knows it by, many parameters laid end to end or the parameter itself; None if it is frozen."""
    offset: int
    """Where the piece begins in `flat`."""
    everywhere: bool
    """Whether every rank holds it."""

    @property
    def length(self) -> int:
        return self.weight.numel()

    def view(self, state: Tensor) -> Tensor:
        """The piece's part of something that the optimiser keeps of each element of `flat`."""
        return state.view(-1).narrow(0, self.offset, self.length)

    def share(self, rank: int, world: int) -> tuple[int, int]:
        """[first, last) of the piece that a rank writes: all of it, or its part where every rank holds it."""
        if not self.everywhere:
            return 0, self.length
        return self.length * rank // world, self.length * (rank + 1) // world


class Held:
    """All that a rank of a DeepSpeed engine holds."""

    def __init__(self, engine: Any):
        self.engine = engine
        self.stage = int(engine.zero_optimization_stage())
        self.zero = engine.optimizer if self.stage else None
        """DeepSpeed's optimiser around the real one; None at stage 0."""
        self.optimizer: torch.optim.Optimizer = engine.optimizer.optimizer if self.stage else engine.optimizer
        self.pieces = list(self._pieces())

    def state(self, piece: Piece) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What the optimiser keeps of a piece: of each element, and numbers such as the step.

        Raises:
            UserError: it keeps something else.
        """
        each, numbers = {}, {}
        if piece.flat is None:
            return {}, {}
        for kind, value in self.optimizer.state.get(piece.flat, {}).items():
            if value is None:
                continue
            if not torch.is_tensor(value) or value.dim() == 0:
                numbers[kind] = float(value)
            elif value.numel() == piece.flat.numel():
                each[kind] = piece.view(value)
            else:
                raise UserError(
                    f"deepspeed.optimizer: {type(self.optimizer).__name__} keeps {kind} of shape {tuple(value.shape)}, which "
                    "no checkpoint of kdscale can carry; take AdamW or another optimiser that works element by element"
                )
        return each, numbers

    def open(self, piece: Piece, kind: str, dtype: torch.dtype) -> Tensor:
        """A view of a kind of state to write to, made where the optimiser has none yet."""
        assert piece.flat is not None
        state = self.optimizer.state[piece.flat]
        if kind not in state:
            state[kind] = torch.zeros_like(piece.flat, dtype=dtype, memory_format=torch.contiguous_format)
        return piece.view(state[kind])

    def set_number(self, piece: Piece, kind: str, value: float) -> None:
        """Set the optimiser's step, say, in the type that the optimiser wants: torch's are tensors, DeepSpeed's plain numbers."""
        assert piece.flat is not None
        plain: Any = int(value) if value == int(value) else value
        if type(self.optimizer).__module__.startswith("torch."):
            group = self.optimizer.param_groups[0]
            device = piece.flat.device if group.get("fused") or group.get("capturable") else "cpu"
            plain = torch.tensor(value, dtype=torch.float32, device=device)
        self.optimizer.state[piece.flat][kind] = plain

    @torch.no_grad()
    def written(self) -> None:
        """Bring what is computed with in line with the pieces, after they were written; every rank calls it."""
        if self.zero is None:
            return
        if self.stage < 3:
            self.zero._hp_optimizer_states_linked = False
            self.zero.update_lp_params()
            return
        zero = self.zero
        for group, master in enumerate(zero.fp32_partitioned_groups_flat):
            if master.numel():
                zero.fp16_partitioned_groups_flat[group].data.copy_(master.data)
                zero._unflatten_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _pieces(self) -> Iterator[Piece]:
        for name, parameter in self.engine.module.named_parameters():
            if self.stage == 3:
                yield from self._partitioned(name, parameter)
            elif self.stage == 0 or not parameter.requires_grad:
                flat = parameter if parameter.requires_grad else None
                weight = parameter.detach().view(-1)
                yield Piece(name, 0, parameter.numel(), weight, flat, 0, everywhere=True)
            else:
                yield from self._mapped(name, parameter)

    def _mapped(self, name: str, parameter: nn.Parameter) -> Iterator[Piece]:
        """Stages 1 and 2: the optimiser steps this rank's part of all parameters laid end to end."""
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is None:
            return  # another rank's
        zero, here, there = self.zero, mapping.hp_fragment_address, mapping.lp_fragment_address
        assert zero is not None
        flats = getattr(zero, "single_partition_of_fp32_groups", None) or zero.fp32_groups_flat_partition
        flat = flats[mapping.param_group_index]
        weight = flat.detach().narrow(0, here.start, here.numel)
        yield Piece(name, there.start, parameter.numel(), weight, flat, here.start, everywhere=False)

    def _partitioned(self, name: str, parameter: Any) -> Iterator[Piece]:
        """Stage 3: every parameter is cut into as many equal parts as there are ranks, the last one filled up."""
        total, size = parameter.ds_numel, parameter.ds_tensor.numel()
        rank = torch.distributed.get_rank()
        start = min(rank * size, total)
        length = min(size, total - start)
        if not length:
            return
        if not parameter.requires_grad:
            yield Piece(name, start, total, parameter.ds_tensor.detach().view(-1)[:length], None, 0, everywhere=False)
            return
        assert self.zero is not None
        group, offset, _ = self.zero.grad_position[self.zero.get_param_id(parameter)]
        flat = self.zero.fp32_partitioned_groups_flat[group]
        yield Piece(name, start, total, flat.detach().narrow(0, offset, length), flat, offset, everywhere=False)

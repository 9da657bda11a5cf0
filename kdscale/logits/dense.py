"""The dense codec: every logit, in a type of one's choice.

float32 is exact. float16 errs by at most 2^-11 of the value (2^-25 near zero) and ends at 65,504. bfloat16 errs by at
most 2^-8 of the value and never overflows. int8 keeps an offset and a scale a row and errs by at most 1/508 of the
row's range, and float32's rounding of offset and scale: 2^-22 of the row's largest value, 2^-142 near zero.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.logits.rows import Logits

Type = Literal["float16", "bfloat16", "float32", "int8"]
_STEPS = 127


@dataclass(frozen=True)
class Dense:
    """All C logits of a row."""

    dtype: Type = "float16"
    temperature: float | None = None
    """The only one that these logits are for: those of a fused set, whose mean was taken there. None for any."""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Type):
            raise UserError(f"logits.dtype: {self.dtype} is not one of {', '.join(get_args(Type))}")

    def describe(self) -> dict[str, Any]:
        fixed = {} if self.temperature is None else {"temperature": float(self.temperature)}
        return {"name": "dense", "dtype": self.dtype, **fixed}

    @property
    def temperatures(self) -> list[float] | None:
        return None if self.temperature is None else [float(self.temperature)]

    @property
    def compression(self) -> None:
        return None

    @property
    def limit(self) -> float:
        return torch.finfo(torch.float16).max if self.dtype == "float16" else math.inf

    @property
    def draws_lots(self) -> bool:
        return False

    def bytes_per_row(self, classes: int) -> float:
        return {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}[self.dtype] * classes + 8 * (self.dtype == "int8")

    def encode(self, logits: NDArray[np.float32], draws: NDArray[np.float64]) -> dict[str, pa.Array]:
        z = torch.from_numpy(np.ascontiguousarray(logits, np.float32))
        if self.dtype == "int8":
            low, high = z.aminmax(dim=1)
            half = high / 2 - low / 2  # the range itself may be more than float32 holds
            offset, scale = low + half, half / _STEPS
            steps = (z - offset[:, None]).div_(torch.where(scale > 0, scale, 1.0)[:, None]).round_()
            codes = steps.clamp_(-_STEPS, _STEPS).to(torch.int8)
            return {
                "logits": _lists(codes, torch.int8),
                "offset": pa.array(offset.numpy()),
                "scale": pa.array(scale.numpy()),
            }
        if self.dtype == "bfloat16":
            return {"logits": _lists(z, torch.bfloat16)}
        if self.dtype == "float32":
            return {"logits": _lists(z, torch.float32)}
        return {"logits": _lists(z, torch.float16)}

    def decode(self, table: pa.Table, classes: int, temperature: float) -> Logits:
        """The logits, without a copy for float16 and float32 in a mapped table."""
        if self.temperature not in (None, temperature):
            raise UserError(
                f"this fused set serves T = {self.temperature:g}, not {temperature:g}; "
                f"read its members, or fuse them again with kdscale logits fuse --temperature {temperature:g}"
            )
        values = lists(table, "logits")
        if self.dtype == "int8":
            offset, scale = (table.column(name).to_numpy() for name in ("offset", "scale"))
            return Logits(values.astype(np.float32) * scale[:, None] + offset[:, None])
        if self.dtype == "bfloat16":
            return Logits((values.astype(np.uint32) << 16).view(np.float32))
        return Logits(values)


def lists(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of fixed-size lists as (N, width), without a copy where it is one chunk."""
    column = table.column(name)
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(-1, column.type.list_size)


def _lists(rows: torch.Tensor, dtype: torch.dtype) -> pa.Array:
    """(N, width) rows as a column of fixed-size lists; bfloat16 as its bits.

    Converted into memory of Arrow's pool, which is used again and again: fresh pages cost more than the conversion.
    """
    kind = pa.uint16() if dtype == torch.bfloat16 else pa.from_numpy_dtype(str(dtype).removeprefix("torch."))
    buffer = pa.allocate_buffer(rows.numel() * dtype.itemsize)
    if rows.numel():
        torch.frombuffer(memoryview(buffer), dtype=dtype).view(rows.shape).copy_(rows)
    return pa.FixedSizeListArray.from_arrays(pa.Array.from_buffers(kind, rows.numel(), [None, buffer]), rows.shape[1])

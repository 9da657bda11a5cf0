"""The dense codec: every logit, in a type of one's choice.

float32 is exact. float16 errs by at most 2^-11 of the value (2^-25 near zero) and ends at 65,504. bfloat16 errs by at
most 2^-8 of the value and never overflows. int8 keeps an offset and a scale a row and errs by at most 1/508 of the
row's range (and float32 rounding of the offset).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdscale.errors import RunFailure
from kdscale.logits.rows import Logits

Type = Literal["float16", "bfloat16", "float32", "int8"]
_STEPS = 127


@dataclass(frozen=True)
class Dense:
    """All C logits of a row."""

    dtype: Type = "float16"

    def describe(self) -> dict[str, Any]:
        return {"name": "dense", "dtype": self.dtype}

    @property
    def temperatures(self) -> None:
        return None

    def bytes_per_row(self, classes: int) -> float:
        return {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}[self.dtype] * classes + 8 * (self.dtype == "int8")

    def encode(self, logits: NDArray[np.float32], draws: NDArray[np.float64]) -> dict[str, pa.Array]:
        z = np.ascontiguousarray(logits, np.float32)
        if self.dtype == "int8":
            low, high = z.min(1), z.max(1)
            offset = (low / 2 + high / 2).astype(np.float32)
            scale = ((high / 2 - low / 2) / _STEPS).astype(np.float32)
            steps = np.rint((z - offset[:, None]) / np.where(scale > 0, scale, 1)[:, None])
            codes = np.clip(steps, -_STEPS, _STEPS).astype(np.int8)
            return {"logits": _lists(codes), "offset": pa.array(offset), "scale": pa.array(scale)}
        if self.dtype == "bfloat16":
            return {"logits": _lists(_to_bfloat16(z))}
        most = float(np.abs(z).max(initial=0.0))
        if self.dtype == "float16" and most > float(np.finfo(np.float16).max):
            raise RunFailure(f"a logit of {most:.6g} does not fit float16; set logits.dtype to bfloat16 or float32")
        return {"logits": _lists(z.astype(self.dtype))}

    def decode(self, table: pa.Table, classes: int, temperature: float) -> Logits:
        """The logits, without a copy for float16 and float32 in a mapped table."""
        values = lists(table, "logits")
        if self.dtype == "int8":
            offset, scale = (table.column(name).to_numpy() for name in ("offset", "scale"))
            return Logits(values.astype(np.float32) * scale[:, None] + offset[:, None])
        if self.dtype == "bfloat16":
            return Logits((values.astype(np.uint32) << 16).view(np.float32))
        return Logits(values)


def lists(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of fixed-size lists as (N, width), without a copy where it is one chunk."""
    column = table.column(name).combine_chunks()
    values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(-1, column.type.list_size)


def _lists(rows: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _to_bfloat16(z: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32, rounded to the nearest, ties to even."""
    bits = z.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

"""Codecs: from (N, C) float32 logits to Arrow columns and back.

A codec says what its columns are, what it cannot hold, and how many bytes a row takes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdscale.errors import RunFailure

COLUMN = "logits"


@dataclass(frozen=True)
class Dense:
    """Every logit, as float16 (relative error up to 2^-11, magnitudes up to 65,504) or float32 (exact)."""

    dtype: Literal["float16", "float32"] = "float16"

    def describe(self) -> dict[str, str]:
        return {"name": "dense", "dtype": self.dtype}

    def bytes_per_row(self, classes: int) -> int:
        return classes * np.dtype(self.dtype).itemsize

    def encode(self, logits: NDArray[np.float32]) -> dict[str, pa.Array]:
        """(N, C) finite float32 -> one column of fixed-size lists.

        Raises:
            RunFailure: a logit is too large for float16.
        """
        most = float(np.abs(logits).max(initial=0.0))
        if self.dtype == "float16" and most > float(np.finfo(np.float16).max):
            raise RunFailure(f"a logit of {most:.6g} does not fit float16; set logits.dtype to float32")
        values = pa.array(logits.astype(self.dtype).ravel())
        return {COLUMN: pa.FixedSizeListArray.from_arrays(values, logits.shape[1])}

    def decode(self, table: pa.Table) -> NDArray[np.floating]:
        """The (N, C) logits, without a copy where the table is memory-mapped."""
        column = table.column(COLUMN).combine_chunks()
        width = column.type.list_size
        values: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=True)
        return values.reshape(-1, width)


def from_description(description: dict[str, str]) -> Dense:
    assert description["name"] == "dense"
    return Dense("float16" if description["dtype"] == "float16" else "float32")

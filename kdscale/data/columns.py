"""Columns: named tensors with one row for each sample, as a join adds them to a batch."""

from collections.abc import Sequence

from torch import Tensor, cat
from torch.nn.functional import pad

Columns = dict[str, Tensor]
"""Named tensors with one row for each sample."""


def place(column: Tensor | None, rows: int, where: Tensor, values: Tensor) -> Tensor:
    """Put rows into a column of so many rows, which grows in its last dimension to hold the widest.

    Args:
        column: (rows, ...), or None to begin one of zeros.
        where: (n,) int64 row numbers.
        values: (n, ...).
    """
    if column is None:
        column = values.new_zeros((rows, *values.shape[1:]))
    if values.dim() > 1:
        width = values.shape[-1]
        if column.shape[-1] < width:
            column = pad(column, (0, width - column.shape[-1]))
        column[where, ..., :width] = values
    else:
        column[where] = values
    return column


def stack(columns: Sequence[Tensor]) -> Tensor:
    """Rows one below the other, padded with zeros to the widest last dimension."""
    if columns[0].dim() == 1:
        return cat(list(columns))
    width = max(column.shape[-1] for column in columns)
    return cat([pad(column, (0, width - column.shape[-1])) for column in columns])


def nbytes(columns: Columns) -> int:
    """Bytes of all columns."""
    return sum(column.numel() * column.element_size() for column in columns.values())

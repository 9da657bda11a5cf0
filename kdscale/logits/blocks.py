"""Blocks: the rows of one (shard, view, member) as an Arrow IPC file, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from kdscale.logits.codecs import Codec
from kdscale.logits.rows import Logits, Sparse


@dataclass(frozen=True)
class Block:
    """A block, verified and mapped into memory; decoded at a temperature when it is asked for."""

    table: pa.Table
    codec: Codec
    classes: int

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def keys(self) -> list[str]:
        keys: list[str] = self.table.column("key").to_pylist()
        return keys

    @property
    def logits(self) -> NDArray[np.floating[Any]]:
        """(N, C), of a codec that keeps them."""
        rows = self.at((self.codec.temperatures or [1.0])[0])
        assert isinstance(rows, Logits)
        return rows.values

    def at(self, temperature: float) -> Logits | Sparse:
        """What the block says at a temperature.

        Raises:
            UserError: the codec does not serve it.
        """
        return self.codec.decode(self.table, self.classes, temperature)


FACTS = "kdscale"
"""Key of the schema's metadata under which a block says what it is."""


def serialize(
    keys: Sequence[str], columns: Mapping[str, pa.Array], facts: str, compression: str | None
) -> list[pa.Buffer | bytes]:
    """A block's file, in the pieces that Arrow gives out: nothing is copied.

    Args:
        facts: JSON of the commit record as far as it is known before the block is written.
        compression: of the columns, for codecs that are not read by mapping.
    """
    table = pa.table({"key": pa.array(keys, pa.string()), **columns})
    table = table.replace_schema_metadata({FACTS: facts})
    sink = _Pieces()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.pieces


def checksum(pieces: Sequence[pa.Buffer | bytes]) -> str:
    """xxh3-128 of a file in pieces."""
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def read_table(buffer: pa.Buffer) -> pa.Table:
    """A block's columns; without a copy if it is not compressed."""
    return pa.ipc.open_file(buffer).read_all()


class _Pieces:
    """A file object that keeps what is written to it as it is."""

    def __init__(self) -> None:
        self.pieces: list[pa.Buffer | bytes] = []
        self.closed = False
        self._size = 0

    def write(self, piece: pa.Buffer | bytes) -> int:
        length = len(piece) if isinstance(piece, bytes) else piece.size
        self.pieces.append(piece)
        self._size += length
        return length

    def tell(self) -> int:
        return self._size

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

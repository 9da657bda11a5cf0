"""What compressing a block's columns gives in bytes and costs in reading, for the codecs that keep few numbers."""

import statistics
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from figures import Figure, Options, ratio, side_by_side, table
from selecting import peaked_rows

from kdscale.logits.codecs import Codec
from kdscale.logits.sampled import Sampled
from kdscale.logits.topk import TopK

CLASSES, ROWS = 1000, 5000


def compression(options: Options) -> list[Figure]:
    """Bytes a row with keys such as train-00001234, and the time to open and decode a block, plain, lz4 and zstd."""
    torch.set_num_threads(1)
    z = peaked_rows(ROWS, CLASSES)
    keys = pa.array([f"train-{row:08d}" for row in range(ROWS)])
    draws = np.random.default_rng(1).random(ROWS)
    codecs: dict[str, Codec] = {"sampled, 12 draws": Sampled(12), "topk, k=32": TopK(32, [1.0])}
    found, printed = [], []
    for name, codec in codecs.items():
        columns = codec.encode(z, draws)
        files = {how or "plain": _file({"key": keys, **columns}, how) for how in (None, "lz4", "zstd")}
        bare = {how or "plain": _file(columns, how) for how in (None, "lz4", "zstd")}
        reads = [partial(_read, file, codec) for file in files.values()]
        times = side_by_side(reads, rounds=9 if options.quick else 41)
        for (how, file), column in zip(files.items(), times, strict=True):
            size, without, slower = file.size / ROWS, bare[how].size / ROWS, ratio(column, times[0])
            speed = ROWS / statistics.median(column)
            printed.append(
                [name, how, f"{size:.1f}", f"{without:.1f}", f"{size - without:.1f}", f"{speed:,.0f}", f"{slower:.2f}"]
            )
            found += [
                Figure(f"{name}, {how}: with keys", size, "bytes/row"),
                Figure(f"{name}, {how}: without keys", without, "bytes/row"),
                Figure(f"{name}, {how}: time to open and decode over the plain file's", slower, "ratio"),
            ]
    print(table(["codec", "file", "bytes/row", "without keys", "keys", "rows/s decoded", "time over plain"], printed))
    return found


def _file(columns: dict[str, pa.Array], how: str | None) -> pa.Buffer:
    whole = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, whole.schema, options=pa.ipc.IpcWriteOptions(compression=how)) as writer:
        writer.write_table(whole)
    return sink.getvalue()


def _read(file: pa.Buffer, codec: Codec) -> object:
    return codec.decode(pa.ipc.open_file(file).read_all(), CLASSES, 1.0)

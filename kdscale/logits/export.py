"""Export: a store as one Parquet file, for tools that know nothing of blocks."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdscale.errors import UserError
from kdscale.files import written_aside
from kdscale.logits.records import Slot
from kdscale.logits.store import Store


def to_parquet(
    store: Store, slots: Iterable[Slot], out: Path, progress: Callable[[int], None] = lambda blocks: None
) -> int:
    """Write the blocks of the slots to one file, whole or not at all; the number of rows.

    Columns: `key`, `shard`, `view`, `member`, and the codec's own. Every block is verified; one is in memory at a time.

    Raises:
        UserError: a block is missing or damaged, or there is none.
    """
    rows = 0
    writer: pq.ParquetWriter | None = None
    with written_aside(out) as temporary:
        for blocks, slot in enumerate(slots, 1):
            table = store.read(slot).table
            facts = {"shard": slot.shard, "view": slot.view, "member": slot.member}
            columns = {name: pa.repeat(pa.scalar(value), len(table)) for name, value in facts.items()}
            codec = {name: table.column(name) for name in table.column_names if name != "key"}
            whole = pa.table({"key": table.column("key"), **columns, **codec})
            writer = writer or pq.ParquetWriter(temporary, whole.schema, compression="zstd")
            writer.write_table(whole)
            rows += len(whole)
            progress(blocks)
        if writer is None:
            raise UserError(f"{store.name}: there is nothing to export; fill the store with kdscale logits")
        writer.close()
    return rows

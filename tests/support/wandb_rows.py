"""What W&B's client leaves behind: the rows of offline logs, read without a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "f" * 40
NOWHERE = "http://127.0.0.1:9"


def offline_rows(folder: Path) -> list[dict[str, Any]]:
    """The history of all offline logs of a job, oldest first."""
    import wandb
    from wandb.proto import wandb_internal_pb2 as pb

    wandb.teardown()  # wandb-core closes a log a moment after finish() has returned
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for payload in _log_records(path.read_bytes()):
            record = pb.Record.FromString(payload)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items})
    return rows


def _log_records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log framing behind W&B's header of 7 bytes; a torn tail ends it."""
    assert data[:4] == b":W&B"
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        chunk = data[at + 7 : at + 7 + length]
        if len(chunk) < length:
            return
        at += 7 + length
        record = chunk if kind in (1, 2) else record + chunk  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield record

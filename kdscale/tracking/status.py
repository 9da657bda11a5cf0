"""What a job is doing now: one small file in its folder, replaced whole, that anyone may read at any time.

The driver draws its progress bars from these, and `kdscale status` needs nothing else.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from kdscale.files import read_json, write_text

FILE = "status.json"
ERROR = "error.txt"
"""Beside it: the traceback of a member that was given up."""
_INTERVAL = 0.5
"""Seconds between two writes."""


class Status:
    """Writes a job's status, at most twice a second; `active=False` (other ranks than 0) writes nothing.

    `begun` says that a start has not come to a clean end yet: who finds it set was preceded by a crash or a kill, and
    counts one restart more.
    """

    def __init__(self, folder: Path, active: bool = True, **constant: Any):
        self.folder, self.active = folder, active
        before = read(folder)
        restarts = before.get("restarts", 0) + bool(before.get("begun"))
        started = {"state": "running", "node": socket.gethostname(), "pid": os.getpid()}
        self.fields: dict[str, Any] = {**started, "restarts": restarts, "begun": True, **constant}
        self._written = 0.0

    def update(self, **fields: Any) -> None:
        self.fields.update(fields)
        if self.fields["state"] in ("done", "stopped"):
            self.fields["begun"] = False
        if self.active and ("state" in fields or time.monotonic() - self._written > _INTERVAL):
            write_text(self.folder / FILE, json.dumps({**self.fields, "time": time.time()}))
            self._written = time.monotonic()


def note(folder: Path, state: str, **fields: Any) -> None:
    """Replace the state of a job that no process works on; what else is known of it stays, but for an earlier error."""
    known = {name: value for name, value in read(folder).items() if name not in ("error", "traceback")}
    write_text(folder / FILE, json.dumps({**known, "state": state, **fields, "time": time.time()}))


def read(folder: Path) -> dict[str, Any]:
    """A job's last status, empty if it has none."""
    try:
        return read_json(folder / FILE) or {}
    except ValueError:
        return {}


def stop_file(run: Path) -> Path:
    """Its presence asks every job of a run to save and end."""
    return run / ".stop"

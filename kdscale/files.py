"""Writes that are whole or not there: a temporary name beside the target, then one rename.

Used wherever an artefact becomes visible, so that a SIGKILL or a full disk never leaves half a file.
"""

import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdscale.errors import RunFailure

TEMPORARY = ".tmp-"
"""Names that begin with this are unfinished; anyone may delete them when no process writes them any more."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it is flushed and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any | None:
    """The file's value, or None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in a folder; call it only while no one writes there."""
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):
            leftover.unlink()


@contextmanager
def locked(path: Path, wait: float = 120.0) -> Iterator[None]:
    """Hold an exclusive lock, waiting for a dying holder to go.

    Raises:
        RunFailure: it was not free within `wait` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with open(path, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise RunFailure(f"{path.parent}: another process is working here; stop it first") from None
                time.sleep(0.1)
        yield

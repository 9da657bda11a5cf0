"""A run directory in an object store: each node has a folder that is kept like it while anything works there.

Stages read and write plain files, and tell each other nothing but paths, so a run lies in a bucket as soon as every task finds
the bucket's files in its node's folder when it begins, and leaves its own in the bucket before its result counts. In between,
both sides are compared every few seconds: checkpoints arrive there while a member trains, and a request to stop here.

`sync` compares three states of each file: here, there, and as both were at the last comparison on this node. What changed on
one side is taken to the other; of two changes the later counts. Uploads are whole or not there, downloads are renamed into place.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdscale.errors import RunFailure, UserError
from kdscale.files import TEMPORARY, locked, read_json, write_json, written_aside
from kdscale.logits.places import Bucket

STATE = ".mirror"
"""In the folder: what both sides were like at the last comparison."""
OWN = {STATE, ".decoded", ".lock", ".driver.lock", ".sync.lock", ".publishing.lock"}
"""Names of what is each node's own: locks, and what is made again from the rest."""
EVERY = 3.0
"""Seconds between two comparisons while something works."""
SCHEMES = ("s3", "gs", "az")


def is_url(run: str | Path) -> bool:
    """Whether a run directory lies in an object store; a Path has lost one of the slashes."""
    scheme, colon, _ = str(run).partition(":/")
    return bool(colon) and scheme in SCHEMES


class Mirror:
    """A folder of this node and a prefix in an object store."""

    def __init__(self, url: str, folder: Path | None = None):
        scheme, _, rest = url.partition(":/")
        self.url = f"{scheme}://{rest.strip('/')}"
        name = f"{self.url.rsplit('/', 1)[-1]}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"
        self.folder = folder or Path(tempfile.gettempdir()) / f"kdscale-{os.getuid()}" / name
        self._bucket = Bucket(self.url)
        self._seen = False
        """Whether this process has compared before: what is missing here at first was not removed by it, but by who cleans /tmp."""

    def sync(self) -> None:
        """Make both sides alike.

        Raises:
            UserError, RunFailure: the object store cannot be used.
        """
        state = self.folder / STATE
        with locked(state / "lock"):
            known: dict[str, list[Any]] = read_json(state / "known.json") or {}
            there, here = self._bucket.versions(), dict(self._local())
            for path in sorted({*known, *there, *here}):
                was = known.get(path, [None, None])
                now = self._settle(path, was, here.get(path), there.get(path))
                if now is None:
                    known.pop(path, None)
                else:
                    known[path] = now
            write_json(state / "known.json", known)
            self._seen = True

    @contextmanager
    def kept(self) -> Iterator[Path]:
        """Keep both sides alike as long as this lasts, and at its end whatever happens; the folder."""
        self.sync()
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(EVERY):
                with contextlib.suppress(
                    RunFailure, UserError, OSError
                ):  # what does not go now goes the next time, or at the end
                    self.sync()

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield self.folder
        finally:
            over.set()
            thread.join()
            self.sync()

    def _settle(
        self, path: str, was: list[Any], here: list[int] | None, there: tuple[str, float] | None
    ) -> list[Any] | None:
        """Make one file alike on both sides: (what it is like here, its version there) from now on, None if it is gone."""
        changed_here, changed_there = here != was[0], (there[0] if there else None) != was[1]
        if changed_here and changed_there and here is not None and there is not None:
            changed_there = there[1] > here[1] / 1e9
        if changed_there and not (changed_here and there is None):
            if there is not None:
                return self._take(path)
            self._remove(path)
            return None
        if changed_here:
            return self._bring(path, was, here is not None)
        return was if here is not None or there is not None else None

    def _bring(self, path: str, was: list[Any], exists: bool) -> list[Any] | None:
        """Take a change of this side to the other."""
        if not exists and not self._seen:
            return self._take(path)
        if not exists:
            self._bucket.delete(path)
            return None
        file = self.folder / path
        try:
            before = _stamp(file)
            return [before, self._bucket.put(path, file.read_bytes())]
        except FileNotFoundError:  # removed since it was listed; the next comparison sees that
            return was if was[0] is not None else None

    def _remove(self, path: str) -> None:
        file = self.folder / path
        file.unlink(missing_ok=True)
        self._prune(file.parent)

    def _take(self, path: str) -> list[Any] | None:
        file = self.folder / path
        try:
            content, version = self._bucket.fetch(path)
        except FileNotFoundError:
            return None
        with written_aside(file) as temporary:
            temporary.write_bytes(content)
        return [_stamp(file), version]

    def _local(self) -> Iterator[tuple[str, list[int]]]:
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if name not in OWN]
            for name in names:
                file = Path(folder) / name
                if name in OWN or name.startswith(TEMPORARY) or file.is_symlink():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield file.relative_to(self.folder).as_posix(), _stamp(file)

    def _prune(self, folder: Path) -> None:
        """Remove folders that are empty now: to the stages one that is there means something."""
        while folder != self.folder:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


_active: Mirror | None = None


@contextmanager
def active(mirror: Mirror) -> Iterator[Path]:
    """On the driver: keep the run's folder, and have everything that goes to workers do the same on their nodes."""
    global _active  # noqa: PLW0603  # queues far below send the work
    with mirror.kept() as folder:
        _active = mirror
        try:
            yield folder
        finally:
            _active = None


def in_use() -> bool:
    """Whether this command works on a run in an object store."""
    return _active is not None


def flush() -> None:
    """On the driver, before work is sent and before a result counts: let both sides know all of each other."""
    if _active is not None:
        _active.sync()


def carried(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What is to be sent to a worker instead of a function and its arguments: the same, in its node's folder."""
    if _active is None:
        return function, arguments
    return in_folder, (_active.url, _active.folder, function, arguments)


def in_folder(url: str, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """On a worker: do what was asked in a folder that is like the bucket."""
    with Mirror(url, folder).kept():
        return function(*arguments)


def local(run: str | Path) -> Path:
    """The folder of a run as it was given: for an object store the one of this machine, brought up to date.

    Raises:
        UserError: there is no such bucket.
    """
    if not is_url(run):
        return Path(run)
    mirror = Mirror(str(run))
    mirror.sync()
    return mirror.folder


def _stamp(file: Path) -> list[int]:
    seen = file.stat()
    return [seen.st_size, seen.st_mtime_ns]

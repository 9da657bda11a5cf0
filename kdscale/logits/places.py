"""Where a store lies: a folder on a shared filesystem, or a prefix in an object store.

Both give the three acts that the store is built on: a file that is whole or not there, a file that is made at most
once however many try (a hard link; a conditional put), and a listing. Nothing else knows which of the two it is.
"""

import itertools
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from kdscale.errors import RunFailure, UserError
from kdscale.files import TEMPORARY, written_aside

Payload = Sequence[pa.Buffer | bytes]
"""A file's content in pieces, so that nothing is copied together."""

RESERVE = 64 << 20
"""Bytes of a disk that blocks leave free, for small files: so many, or a hundredth of a small disk."""
SMALL = 1 << 20
"""Files below this may use the reserve."""
_MAP = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""All of a file will be read, to verify it: its pages are mapped at once."""
PATIENCE = 60.0
"""Seconds that a writer waits for room on a full disk."""


class Place(Protocol):
    """Files under one root, named by relative paths with forward slashes."""

    name: str
    """The root, as a person writes it."""

    def read(self, path: str) -> pa.Buffer:
        """A file's bytes, mapped where that is possible.

        Raises:
            FileNotFoundError
        """
        ...

    def write(self, path: str, payload: Payload) -> None:
        """Make or replace a file; nobody sees a part of it."""
        ...

    def create(self, path: str, payload: Payload) -> bool:
        """Make a file unless there is one; whether this call made it."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(path, bytes) of every file below a folder, in no order, without unfinished ones."""
        ...

    def debris(self, age: float) -> Iterator[tuple[str, int]]:
        """(path, bytes) of what killed writers left unfinished, older than so many seconds."""
        ...

    def age(self, path: str) -> float:
        """Seconds since a file was written.

        Raises:
            FileNotFoundError
        """
        ...

    def delete(self, path: str) -> None:
        """Remove a file; harmless if there is none."""
        ...

    def free(self) -> int | None:
        """Bytes that can still be written, or None where there is no bound."""
        ...


def open_place(where: str | Path) -> Place:
    """A folder, or an object store by its URL (``s3://``, ``gs://``, ``az://``)."""
    if isinstance(where, str) and "://" in where and not where.startswith("file://"):
        return Bucket(where)
    return Folder(Path(str(where).removeprefix("file://")))


def exists(where: str | Path, path: str) -> bool:
    """Whether a place has a file."""
    try:
        open_place(where).read(path)
    except FileNotFoundError:
        return False
    return True


class Folder:
    """A folder that all writers and readers share."""

    def __init__(self, root: Path):
        self.root, self.name = root, str(root)

    def read(self, path: str) -> pa.Buffer:
        with open(self.root / path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return pa.py_buffer(b"")
            return pa.py_buffer(mmap.mmap(file.fileno(), 0, flags=_MAP, prot=mmap.PROT_READ))

    def write(self, path: str, payload: Payload) -> None:
        self._wait_for_room(size(payload))
        with written_aside(self.root / path) as temporary:
            _fill(temporary, payload)

    def create(self, path: str, payload: Payload) -> bool:
        self._wait_for_room(size(payload))
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{TEMPORARY}{file.name}-{uuid.uuid4().hex[:8]}")
        try:
            _fill(temporary, payload)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.link(temporary, file)
        except FileExistsError:
            return False
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        root = str(self.root)
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                if not name.startswith(TEMPORARY):
                    file = os.path.join(folder, name)
                    with suppress(FileNotFoundError):  # deleted since
                        yield os.path.relpath(file, root), os.stat(file).st_size

    def debris(self, age: float) -> Iterator[tuple[str, int]]:
        for file in self.root.rglob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):
                path = str(file.relative_to(self.root))
                if self.age(path) > age:
                    yield path, file.stat().st_size

    def age(self, path: str) -> float:
        return time.time() - (self.root / path).stat().st_mtime

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def free(self) -> int | None:
        """Of the nearest folder that exists, less the reserve."""
        there = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        disk = shutil.disk_usage(there)
        return max(0, disk.free - min(RESERVE, disk.total // 100))

    def _wait_for_room(self, needed: int) -> None:
        """Hold a writer back while the disk is full: another process may be making room."""
        if needed < SMALL:
            return
        deadline = time.monotonic() + PATIENCE
        while (free := self.free()) is not None and free < needed:
            if time.monotonic() > deadline:
                raise RunFailure(
                    f"{self.root}: the disk is full ({needed / 1e6:.1f} MB to write, {free / 1e6:.1f} MB free); make room and give the same command again, nothing is lost"
                )
            time.sleep(1.0)


class Bucket:
    """A prefix in an object store. Credentials, endpoint and region come from the environment (``AWS_*``, ``GOOGLE_*``)."""

    def __init__(self, url: str):
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise UserError(
                f"{url}: object stores need the package obstore; pip install -e '.[s3]' in kdscale's folder"
            ) from None
        self.name = url
        self._obstore: Any = obstore
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:")
        options: Any = {"client_options": {"allow_http": True}} if plain else {}
        try:
            self._store: Any = from_url(url, **options)
        except Exception as error:
            raise UserError(f"{url}: not an object store that can be opened ({_first_line(error)})") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.name,)

    def read(self, path: str) -> pa.Buffer:
        return self._do(lambda: pa.py_buffer(self._obstore.get(self._store, path).bytes()))

    def write(self, path: str, payload: Payload) -> None:
        self._put(path, payload)

    def create(self, path: str, payload: Payload) -> bool:
        from obstore.exceptions import AlreadyExistsError

        try:
            # one part: only a single put can be conditional
            self._put(path, payload, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _put(self, path: str, payload: Payload, **how: Any) -> None:
        try:
            self._do(lambda: self._obstore.put(self._store, path, _joined(payload), **how))
        except FileNotFoundError:
            raise UserError(f"{self.name}: there is no such bucket; create it first") from None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        pages = self._do(lambda: list(self._obstore.list(self._store, prefix)))
        for found in itertools.chain.from_iterable(pages):
            yield found["path"], found["size"]

    def versions(self) -> dict[str, tuple[str, float]]:
        """(version, seconds of the epoch at which it was written) of every file."""
        try:
            pages = self._do(lambda: list(self._obstore.list(self._store)))
        except RunFailure as error:
            if "404" not in str(error):
                raise
            raise UserError(f"{self.name}: there is no such bucket; create it first") from None
        every = itertools.chain.from_iterable(pages)
        return {found["path"]: (found["e_tag"], found["last_modified"].timestamp()) for found in every}

    def put(self, path: str, content: bytes) -> str:
        """Make or replace a file; its version."""
        try:
            return str(self._do(lambda: self._obstore.put(self._store, path, content))["e_tag"])
        except FileNotFoundError:
            raise UserError(f"{self.name}: there is no such bucket; create it first") from None

    def fetch(self, path: str) -> tuple[bytes, str]:
        """A file's bytes and their version.

        Raises:
            FileNotFoundError
        """
        found = self._do(lambda: self._obstore.get(self._store, path))
        return self._do(lambda: bytes(found.bytes())), found.meta["e_tag"]

    def debris(self, age: float) -> Iterator[tuple[str, int]]:
        return iter(())  # an object is there whole or not at all

    def age(self, path: str) -> float:
        found = self._do(lambda: self._obstore.head(self._store, path))
        return time.time() - float(found["last_modified"].timestamp())

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._do(lambda: self._obstore.delete(self._store, path))

    def free(self) -> int | None:
        return None

    def _do(self, act: Any) -> Any:
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            return act()
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except BaseError as error:
            raise RunFailure(f"{self.name}: the object store answers with an error ({_first_line(error)})") from None


def size(payload: Payload) -> int:
    """Bytes of a payload."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in payload)


def _fill(file: Path, payload: Payload) -> None:
    with open(file, "wb", buffering=0) as out:
        for piece in payload:
            view = memoryview(piece)
            while view:
                view = view[out.write(view) :]


def _joined(payload: Payload) -> bytes:
    return b"".join(memoryview(piece) for piece in payload)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__

"""Images in folders: PATH/CLASS/..., or PATH/train/CLASS/..., PATH/test/CLASS/... where splits are given."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.manifest import SampleSpec
from kdscale.data.shards import IMAGES, Encoded
from kdscale.data.sources import images
from kdscale.data.sources.splits import SYNONYMS
from kdscale.errors import UserError

OPTIONS: frozenset[str] = frozenset()
_JUNK = frozenset({"thumbs.db", "desktop.ini"})
_LONGEST = 90
"""Characters of a key; a tar header has room for 100 with the extension."""


def load(path: Path, options: dict[str, Any], image_size: int | None) -> "FolderSource":
    return FolderSource(path, image_size)


class FolderSource:
    """One file a sample, its bytes kept as they are unless it must be resized."""

    memory = 0

    def __init__(self, path: Path, image_size: int | None):
        """List the files; headers are read when `spec` is first asked for.

        Raises:
            UserError: no class folders, an empty one, or a file that is no image.
        """
        if not path.is_dir():
            raise UserError(f"data.path: {path} is a file; give the folder that holds one folder a class")
        self._image_size = image_size
        self._spec: SampleSpec | None = None
        top = _folders(path)
        split_of = {folder: SYNONYMS.get(folder.name.lower()) for folder in top}
        files: list[tuple[Path, str, str | None]] = []
        if top and all(split_of.values()):
            for folder in top:
                files += [(file, name, split_of[folder]) for file, name in _files(folder)]
        else:
            files = [(file, name, None) for file, name in _files(path)]
        self.classes = sorted({name for _, name, _ in files})
        number = {name: index for index, name in enumerate(self.classes)}
        self._files = [file for file, _, _ in files]
        self.labels = np.array([number[name] for _, name, _ in files], np.int64)
        self.splits: NDArray[np.str_] | None = None
        if files[0][2] is not None:
            self.splits = np.array([split for _, _, split in files], np.str_)
        self._keys = _keys([file.relative_to(path) for file in self._files])

    def group_by(self, pattern: str) -> NDArray[np.str_]:
        """(N,) the group of each file: what the first group of a regular expression finds in its path.

        Raises:
            UserError: no regular expression with a group, or a path that has none.
        """
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise UserError(f"data.group: {pattern} is no regular expression ({error}); mend it") from None
        if not expression.groups:
            raise UserError(
                f"data.group: {pattern} has no group; put what names it into parentheses, as in plane-([0-9]+)"
            )
        found = []
        for file in self._files:
            match = expression.search(file.as_posix())
            if match is None or match[1] is None:
                raise UserError(f"{file}: data.group {pattern} finds nothing in its path; mend either")
            found.append(match[1])
        return np.array(found, np.str_)

    @property
    def spec(self) -> SampleSpec:
        """From the headers: of all images, or, where they are resized, up to the first in colour."""
        if self._spec is None:
            self._spec = images.common_spec(self._headers(), self._image_size)
        return self._spec

    @spec.setter
    def spec(self, spec: SampleSpec) -> None:
        self._spec = spec

    def where(self, index: int) -> str:
        return str(self._files[index])

    def encode(self, index: int) -> Encoded:
        file = self._files[index]
        try:
            payload = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); mend its permissions or remove it") from None
        extension = file.suffix[1:].lower()
        extension, payload = images.fitted(str(file), extension, payload, self.spec, self._image_size)
        return Encoded(self._keys[index], extension, payload, int(self.labels[index]))

    def _headers(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        for file in self._files:
            try:
                with open(file, "rb") as stream:
                    _, mode, size = images.header(str(file), stream)
            except OSError as error:
                raise UserError(
                    f"{file}: cannot be read ({error.strerror}); mend its permissions or remove it"
                ) from None
            yield str(file), mode, size


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path) -> list[tuple[Path, str]]:
    """Every image below the class folders of `path`, and its class."""
    for entry in path.iterdir():
        if not entry.is_dir() and not _hidden(entry.name):
            raise UserError(f"{entry}: lies beside the class folders; put it into one of them or elsewhere")
    found: list[tuple[Path, str]] = []
    for folder in _folders(path):
        before = len(found)
        for parent, names, files in os.walk(folder):
            names[:] = sorted(name for name in names if not _hidden(name))
            for name in sorted(files):
                file = Path(parent, name)
                if _hidden(name):
                    continue
                if file.suffix.lower() not in IMAGES:
                    kind = f"{file.suffix} is not an image format" if file.suffix else "it has no image's extension"
                    raise UserError(f"{file}: not an image ({kind} that Pillow knows); convert or remove it")
                found.append((file, folder.name))
        if len(found) == before:
            raise UserError(f"{folder}: the class folder holds no images; fill or remove it")
    if not found:
        raise UserError(f"{path}: there are no class folders with images; make one folder a class")
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _keys(files: list[Path]) -> list[str]:
    """Relative paths without extension, made fit for WebDataset, whose keys end at the base name's first dot."""
    keys: list[str] = []
    seen: set[str] = set()
    for index, file in enumerate(files):
        key = re.sub(r"[^A-Za-z0-9_/+=@,-]", "_", file.with_suffix("").as_posix())
        if len(key) > _LONGEST or key in seen:
            key = f"{key[: _LONGEST - 12].rstrip('/')}_{index}"
        while key in seen:
            key = f"{key}_{index}"
        seen.add(key)
        keys.append(key)
    return keys

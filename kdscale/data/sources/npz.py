"""NumPy archives: one file with x and y, or x_train, y_train, x_test, ..., or a folder with one file a split."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kdscale.data.sources.arrays import ArraySource, Part, parts_of
from kdscale.data.sources.splits import of_name
from kdscale.errors import UserError

OPTIONS = frozenset({"classes"})


def load(path: Path, options: dict[str, Any], image_size: int | None) -> ArraySource:
    """The arrays of an .npz, or of train.npz, test.npz and validation.npz in a folder; nothing is ever unpickled.

    Raises:
        UserError: a file is damaged or holds Python objects, arrays are missing or do not fit each other.
    """
    if path.is_dir():
        files = {file: of_name(file.stem) for file in sorted(path.glob("*.npz"))}
        for file, split in files.items():
            if split is None:
                raise UserError(f"{file}: its name says no split; call it train.npz, validation.npz or test.npz")
            if list(files.values()).count(split) > 1:
                raise UserError(f"{file}: a second file of the split {split}; keep one")
        if not files:
            raise UserError(f"{path}: there is no train.npz; put it there, or give the path of one .npz file")
    else:
        files = {path: None}
    parts = [part for file, split in files.items() for part in _read(file, split)]
    return ArraySource(parts, options.get("classes"), image_size)


def _read(file: Path, split: str | None) -> list[Part]:
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{file}: a single array, not an .npz with x and y; save both with numpy.savez")
        with archive:
            return parts_of(str(file), archive, split)
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = "not an .npz file" if "pickle" in str(error) else str(error)
        raise UserError(f"{file}: cannot be read ({reason}); save it again with numpy.savez") from None

"""Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): handwritten characters of many alphabets, straight from its zip files.

A class is a character of an alphabet, such as Greek/character05, so classes have natural clusters. Zip files may overlap, as
images_background_small1 and small2 do: what is there twice counts once.
"""

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdscale.data.sources.arrays import ArraySource, Part
from kdscale.errors import UserError

OPTIONS: frozenset[str] = frozenset()


def load(path: Path, options: dict[str, Any], image_size: int | None) -> ArraySource:
    """The drawings of every zip file in the folder `path`, or of the one that it is; white ink on black, one channel.

    Raises:
        UserError: no zip file, one that is damaged, or without drawings as ALPHABET/CHARACTER/NAME.png.
    """
    files = sorted(path.glob("*.zip")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"data.path: {path} has no zip file; give the folder of images_background.zip, or that file")
    drawings: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for file in files:
        drawings |= _read(file)
    classes = sorted({name for name, _ in drawings})
    number = {name: index for index, name in enumerate(classes)}
    ordered = sorted(drawings)
    shapes = {drawings[key].shape for key in ordered}
    if len(shapes) > 1:
        raise UserError(f"{path}: drawings of {len(shapes)} different sizes; give Omniglot's own files")
    y = np.array([number[name] for name, _ in ordered], np.int64)
    part = Part(str(path), None, np.stack([drawings[key] for key in ordered]), y)
    return ArraySource([part], classes=classes, image_size=image_size)


def _read(file: Path) -> dict[tuple[str, str], NDArray[np.uint8]]:
    """(class, name of the drawing) -> (H, W)."""
    found: dict[tuple[str, str], NDArray[np.uint8]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                parts = PurePosixPath(name).parts
                if len(parts) < 3 or not parts[-1].endswith(".png") or parts[0] == "__MACOSX":
                    continue
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    found[f"{parts[-3]}/{parts[-2]}", parts[-1]] = 255 - np.asarray(image.convert("L"))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{file}: cannot be read as one of Omniglot's zip files ({error}); download it again") from None
    if not found:
        raise UserError(f"{file}: holds no drawings as ALPHABET/CHARACTER/NAME.png; give one of Omniglot's zip files")
    return found

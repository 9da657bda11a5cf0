"""Pixels on their way into a shard: headers looked at, sizes made equal, PNG where nothing is encoded yet."""

import io
from collections.abc import Iterable
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdscale.data import shards
from kdscale.data.manifest import SampleSpec
from kdscale.errors import UserError

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tiff", "PPM": "ppm"}
"""Formats whose bytes go into a shard untouched, and the extension they get there."""


def is_grey(mode: str) -> bool:
    """Whether a Pillow mode holds grey pixels: 1, L, LA, I;16 and their kin."""
    return mode in ("1", "F") or (mode[0] in "LI" and mode != "LAB")


def header(where: str, file: IO[bytes]) -> tuple[str, str, tuple[int, int]]:
    """Format, mode and (width, height) of an encoded image, without decoding it.

    Raises:
        UserError: it is no image that Pillow knows.
    """
    try:
        with Image.open(file) as image:
            return image.format or "", image.mode, image.size
    except Exception as error:  # Pillow raises what its plugins raise
        raise UserError(f"{where}: the image cannot be read ({_reason(error)}); replace or remove it") from None


def common_spec(headers: Iterable[tuple[str, str, tuple[int, int]]], image_size: int | None) -> SampleSpec:
    """The spec of images given as (where, mode, (width, height)); read only as far as needed.

    One channel if all are grey, else three.

    Raises:
        UserError: sizes differ and nothing says to resize; names two images.
    """
    grey, first = True, None
    for where, mode, size in headers:
        grey = grey and is_grey(mode)
        if first is None:
            first = where, size
        if image_size is not None:
            if not grey:
                break
        elif size != first[1]:
            raise UserError(
                f"images differ in size: {first[0]} has {first[1][0]}x{first[1][1]} pixels and {where} "
                f"{size[0]}x{size[1]}; set data.image_size to resize on import"
            )
    assert first is not None, "a source without samples is refused before"
    width, height = (image_size, image_size) if image_size is not None else first[1]
    return SampleSpec(kind="image", shape=(1 if grey else 3, height, width))


def fitted(where: str, extension: str, payload: bytes, spec: SampleSpec, image_size: int | None) -> tuple[str, bytes]:
    """An encoded image, untouched unless data.image_size asks for another size; then a PNG. Extension and bytes."""
    if image_size is None or header(where, io.BytesIO(payload))[2] == (image_size, image_size):
        return extension, payload
    return "png", png(shards.decode_image(where, payload, spec.shape[0]), image_size)


def png(pixels: NDArray[np.uint8], image_size: int | None) -> bytes:
    """(channels, height, width) uint8 as PNG, resized (bilinear) where `image_size` says so."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    return "not an image format that Pillow knows" if "cannot identify" in str(error) else str(error)

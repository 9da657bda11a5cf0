"""A function of the user's own, `package.module:function`, that returns the samples."""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdscale.data.sources import images
from kdscale.data.sources.arrays import ArraySource, Part, parts_of
from kdscale.errors import UserError


def load(kind: str, path: str | None, options: dict[str, Any], image_size: int | None) -> ArraySource:
    """Call the function with (data.path, **data.options).

    It returns a mapping of arrays (x and y, or x_train, y_train, x_test, ...), or (x, y) pairs, x being a Pillow
    image or an array, for a single pool. data.options.classes, if given, names the classes and is not passed on.

    Raises:
        UserError: no such module or function, it fails, or returns something else.
    """
    function = _find(kind)
    arguments = {name: value for name, value in options.items() if name != "classes"}
    try:
        result = function(path, **arguments)
        parts = parts_of(kind, result) if isinstance(result, Mapping) else [_pool(kind, result, image_size)]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.source: {kind} failed ({type(error).__name__}: {error}); mend the function") from error
    return ArraySource(parts, options.get("classes"), image_size)


def _find(kind: str) -> Any:
    module_name, _, name = kind.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise UserError(
            f"data.source: the module {module_name or '(nothing)'} of {kind} cannot be imported ({error}); "
            "install it or start where it lies"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"data.source: {module_name} has no function {name or '(nothing)'}; mend {kind}")
    return function


def _pool(kind: str, result: Any, image_size: int | None) -> Part:
    if not isinstance(result, Iterable) or isinstance(result, str | bytes):
        raise UserError(
            f"data.source: {kind} returned {type(result).__name__}; return a mapping with x and y, or (x, y) pairs"
        )
    samples: list[Any] = []
    labels: list[Any] = []
    for row, pair in enumerate(result):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(
                f"data.source: {kind} row {row} is {type(pair).__name__}, not a pair (x, y); return such pairs"
            )
        samples.append(pair[0])
        labels.append(pair[1])
    if not samples:
        raise UserError(f"data.source: {kind} returned no samples; return some")
    if all(isinstance(sample, Image.Image) for sample in samples):
        return Part(kind, None, _pixels(kind, samples, image_size), np.asarray(labels))
    arrays = [np.asarray(sample) for sample in samples]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise UserError(
                f"data.source: {kind} row {row} has shape {array.shape} where row 0 has {arrays[0].shape}; "
                "return samples of one shape"
            )
    return Part(kind, None, np.stack(arrays), np.asarray(labels))


def _pixels(kind: str, samples: list[Image.Image], image_size: int | None) -> NDArray[np.uint8]:
    """Pillow images as (N, height, width) or (N, height, width, 3), all of one size."""
    headers = ((f"{kind} row {row}", image.mode, image.size) for row, image in enumerate(samples))
    channels, height, width = images.common_spec(headers, image_size).shape
    mode = "L" if channels == 1 else "RGB"
    return np.stack(
        [np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)) for image in samples]
    )

"""Sources: where samples are before an import makes them shards. One module a kind, loaded when it is asked for.

Every module has `OPTIONS`, the names it knows in data.options, and `load(path, options, image_size)`.
Tars that are there already (kind `shards`) are not a `Source`: they stay where they are, see `shards.py`.
"""

import difflib
import importlib
from pathlib import Path
from typing import Any

from kdscale.data.sources.base import Source
from kdscale.errors import UserError

KINDS = ("digits", "digit_strings", "idx", "folder", "npz", "omniglot", "parquet", "shards")


def open_source(kind: str, path: str | None, options: dict[str, Any], image_size: int | None) -> Source:
    """The source that a recipe's data.source, data.path, data.options and data.image_size name.

    Raises:
        UserError: no such kind (names the nearest), no such path, an unknown option, or data it cannot take.
    """
    if ":" in kind:
        from kdscale.data.sources.function import load

        return load(kind, path, options, image_size)
    check_kind(kind)
    assert kind != "shards", "tars are used in place; importing.import_dataset does it"
    module = importlib.import_module(f"kdscale.data.sources.{kind}")
    check_options(kind, options, module.OPTIONS)
    if kind == "digits" and path is not None:
        raise UserError(
            f"data.path: the source digits is scikit-learn's and reads nothing from {path}; leave it out, or name what reads "
            "it, such as data.source=idx or folder"
        )
    if kind == "digits" or (kind == "digit_strings" and path is None):
        place = Path()
    elif path is None:
        raise UserError(f"data.path: the source {kind} needs one; give the file or folder")
    elif "://" in path:
        raise UserError(f"data.path: {path} is a URL, which only the source shards reads; download it first")
    else:
        place = Path(path)
        if not place.exists():
            raise UserError(f"data.path: {path} does not exist; give the file or folder of the {kind} data")
    source: Source = module.load(place, options, image_size)
    return source


def check_kind(kind: str) -> None:
    """Refuse a kind that is neither built in nor a function."""
    if kind in KINDS or ":" in kind:
        return
    near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KINDS)}, or package.module:function"
    raise UserError(f"data.source: there is no source {kind}; {hint}")


def check_options(kind: str, options: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse an option that the source does not know."""
    for name in options:
        if name not in known:
            raise UserError(
                f"data.options.{name}: the source {kind} has no such option; known: {', '.join(sorted(known)) or 'none'}"
            )

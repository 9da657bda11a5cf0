"""Parquet files as Hugging Face writes them: a column of encoded images, or of numbers, and one of labels."""

import io
import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kdscale.data import shards
from kdscale.data.manifest import SPLITS, SampleSpec
from kdscale.data.shards import Encoded
from kdscale.data.sources import images
from kdscale.data.sources.arrays import INPUTS, LABELS, ArraySource, Part
from kdscale.data.sources.base import Source
from kdscale.data.sources.labels import class_names, whole_numbers
from kdscale.data.sources.splits import SYNONYMS, of_name
from kdscale.errors import UserError

OPTIONS = frozenset({"image", "label", "classes"})
CACHE_BYTES = 1 << 30
"""Row groups kept in memory by each process; beyond that they are read again."""


def load(path: Path, options: dict[str, Any], image_size: int | None) -> Source:
    """A file (one pool), or a folder of files whose names or subfolders begin with a split.

    data.options `image` and `label` name the columns where their names do not say it, `classes` the classes.

    Raises:
        UserError: no files, a damaged one, no such column, null or negative labels, files without a split.
    """
    files = _split_files(path)
    schema = pq.ParquetFile(files[0][0]).schema_arrow
    features = _features(schema)
    image = _column(files[0][0], schema, features, options, "image", INPUTS | {"img"}, "Image")
    label = _column(files[0][0], schema, features, options, "label", LABELS | {"fine_label"}, "ClassLabel")
    for file, _ in files:
        for name in (image, label):
            if name not in pq.ParquetFile(file).schema_arrow.names:
                raise UserError(f"{file}: has no column {name}, which {files[0][0].name} has; make the files alike")
    labels, names = _labels([file for file, _ in files], label)
    classes = options.get("classes") or names or features.get(label, {}).get("names")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _Images(files, image, labels, classes, image_size)
    parts: dict[str | None, list[tuple[NDArray[Any], NDArray[np.int64]]]] = {}
    for (file, split), numbers in zip(files, labels, strict=True):
        parts.setdefault(split, []).append((_values(file, image), numbers))
    merged = []
    for split, pieces in parts.items():
        if len({(x.shape[1:], x.dtype) for x, _ in pieces}) > 1:
            raise UserError(f"{path}: the column {image} has samples of several shapes or types; make them alike")
        x, y = np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces])
        merged.append(Part(f"{path}: {split or image}", split, x, y))
    return ArraySource(merged, classes, image_size)


class _Images:
    """Encoded images in a column; row groups are read when a sample of theirs is asked for."""

    def __init__(
        self,
        files: list[tuple[Path, str | None]],
        column: str,
        labels: list[NDArray[np.int64]],
        classes: Any,
        image_size: int | None,
    ):
        self._column, self._image_size = column, image_size
        self._spec: SampleSpec | None = None
        self._groups: list[tuple[Path, int, int]] = []
        """File, row group in it, and the first row's number in the file."""
        ends, total = [], 0
        for file, _ in files:
            metadata = pq.ParquetFile(file).metadata
            row = 0
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group, row))
                row += metadata.row_group(group).num_rows
                ends.append(total + row)
            total += row
        self._ends = np.array(ends, np.int64)
        self._rows: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._held = 0
        self.memory = min(CACHE_BYTES, sum(file.stat().st_size for file, _ in files))
        self.labels = np.concatenate(labels)
        self.classes = class_names(f"{files[0][0].parent}", self.labels, classes)
        self.splits: NDArray[np.str_] | None = None
        if all(split for _, split in files):
            self.splits = np.repeat(np.array([split for _, split in files], np.str_), [len(y) for y in labels])

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
        number, row = self._find(index)
        file, _, first = self._groups[number]
        return f"{file}: row {first + row}"

    def encode(self, index: int) -> Encoded:
        where, payload = self.where(index), self._payload(index)
        form, _, _ = images.header(where, io.BytesIO(payload))
        extension = images.EXTENSIONS.get(form)
        if extension is None:
            pixels = shards.decode_image(where, payload, self.spec.shape[0])
            extension, payload = "png", images.png(pixels, self._image_size)
        extension, payload = images.fitted(where, extension, payload, self.spec, self._image_size)
        split = "sample" if self.splits is None else self.splits[index]
        return Encoded(f"{split}-{index:08d}", extension, payload, int(self.labels[index]))

    def _headers(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        for index in range(len(self.labels)):
            where = self.where(index)
            _, mode, size = images.header(where, io.BytesIO(self._payload(index)))
            yield where, mode, size

    def _find(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def _payload(self, index: int) -> bytes:
        number, row = self._find(index)
        value = self._group(number)[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise UserError(
                f"{self.where(index)}: the column {self._column} holds no image bytes; embed the images in the file"
            )
        return value

    def _group(self, number: int) -> "pa.ChunkedArray":
        if number not in self._rows:
            file, group, _ = self._groups[number]
            column = _read(file, self._column, group)
            self._rows[number] = column
            self._held += column.nbytes
            while self._held > CACHE_BYTES and len(self._rows) > 1:
                self._held -= self._rows.popitem(last=False)[1].nbytes
        self._rows.move_to_end(number)
        return self._rows[number]


def _split_files(path: Path) -> list[tuple[Path, str | None]]:
    if not path.is_dir():
        found: list[tuple[Path, str | None]] = [(path, None)]
    else:
        found = [(file, of_name(file.name) or _of_folder(file, path)) for file in sorted(path.rglob("*.parquet"))]
        if not found:
            raise UserError(f"{path}: there are no .parquet files; give the file, or the folder that holds them")
        silent = [file for file, split in found if split is None]
        if silent and len(silent) < len(found):
            raise UserError(
                f"{silent[0]}: its name says no split while others do; begin it with train-, validation- or test-"
            )
    for file, _ in found:
        try:
            pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: not a readable Parquet file ({_short(error)}); fetch or write it again") from None
    return sorted(found, key=lambda entry: (SPLITS.index(entry[1] or "train"), entry[0]))


def _of_folder(file: Path, root: Path) -> str | None:
    return None if file.parent == root else SYNONYMS.get(file.parent.name.lower())


def _features(schema: "pa.Schema") -> dict[str, Any]:
    """What Hugging Face says of each column in the file's metadata; empty for files of other makers."""
    try:
        tree = json.loads((schema.metadata or {})[b"huggingface"])
        features = tree["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {str(name): value for name, value in features.items() if isinstance(value, dict)}


def _column(
    file: Path,
    schema: "pa.Schema",
    features: dict[str, Any],
    options: dict[str, Any],
    role: str,
    known: frozenset[str],
    feature: str,
) -> str:
    there = f"there is {', '.join(schema.names)}"
    if role in options:
        if options[role] not in schema.names:
            raise UserError(f"data.options.{role}: {file} has no column {options[role]}; {there}")
        return str(options[role])
    candidates = [name for name in schema.names if features.get(name, {}).get("_type") == feature]
    candidates = candidates or [name for name in schema.names if name.lower() in known]
    if len(candidates) != 1:
        trouble = f"several columns may be the {role}" if candidates else f"no column is called {role}"
        raise UserError(f"{file}: {trouble}; name it with data.options.{role}; {there}")
    return str(candidates[0])


def _labels(files: list[Path], column: str) -> tuple[list[NDArray[np.int64]], list[str] | None]:
    """Labels by file, and the classes' names where labels are strings."""
    columns = [_read(file, column) for file in files]
    for file, values in zip(files, columns, strict=True):
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise UserError(f"{file}: row {row}: the column {column} is null; give every sample its label")
    if all(pa.types.is_string(values.type) or pa.types.is_large_string(values.type) for values in columns):
        texts = [values.to_pylist() for values in columns]
        names = sorted(set().union(*texts))
        number = {name: index for index, name in enumerate(names)}
        return [np.array([number[text] for text in values], np.int64) for values in texts], names
    return [
        whole_numbers(f"{file}: {column}", np.asarray(values.to_pylist()) if len(values) else np.empty(0, np.int64))
        for file, values in zip(files, columns, strict=True)
    ], None


def _values(file: Path, column: str) -> NDArray[Any]:
    """A column of equally long, possibly nested lists as one array."""
    values = _read(file, column)
    values = pa.concat_arrays([_storage(chunk) for chunk in values.chunks]) if values.num_chunks else pa.array([])
    shape = [len(values)]
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        flat = values.flatten()
        inner = len(flat) // max(1, len(values))
        lengths = set(values.value_lengths().to_pylist())
        if lengths != {inner}:
            raise UserError(f"{file}: the lists of column {column} differ in length; make the samples alike")
        shape.append(inner)
        values = flat
    if values.null_count:
        raise UserError(f"{file}: the column {column} has nulls; fill or drop them")
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.reshape(shape)


def _storage(chunk: "pa.Array") -> "pa.Array":
    return _storage(chunk.storage) if isinstance(chunk, pa.ExtensionArray) else chunk


def _read(file: Path, column: str, group: int | None = None) -> "pa.ChunkedArray":
    try:
        reader = pq.ParquetFile(file)
        table = reader.read([column]) if group is None else reader.read_row_group(group, [column])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: the column {column} cannot be read ({_short(error)}); fetch it again") from None
    return table.column(column)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

"""One shard: a standard WebDataset tar of `KEY.ext` and `KEY.cls` members, written and decoded.

Images keep their encoded bytes (png, jpg, any Pillow format), arrays are `.npy`; `.cls` is the class number in
ASCII. Nothing in a shard is ever unpickled.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from kdscale.data import ranges
from kdscale.data.index import Index, Places, checksum
from kdscale.data.manifest import SampleSpec, Shard
from kdscale.errors import UserError
from kdscale.files import sha256, written_aside

LABEL = "cls"
IMAGES = frozenset(Image.registered_extensions())
"""Extensions, with their dot, that Pillow can decode."""


@dataclass(frozen=True)
class Encoded:
    """A sample as a shard holds it."""

    key: str
    extension: str
    """Without the dot: png, jpg, npy, ..."""
    payload: bytes
    label: int


@dataclass(frozen=True)
class Decoded:
    """A whole shard in memory, rows in the shard's order."""

    keys: list[str]
    ids: NDArray[np.uint64]
    """(N,) xxh3 of each key: names the sample to counter-based generators."""
    x: NDArray[np.generic]
    """(N, *shape) uint8 for images, float32 for arrays."""
    y: NDArray[np.int64]
    """(N,) class numbers."""


def write(folder: Path, name: str, samples: Iterable[Encoded]) -> Shard:
    """Write samples to `folder/name`, whole or not at all; the same samples give the same bytes."""
    count = 0
    with written_aside(folder / name) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                _add(tar, f"{sample.key}.{sample.extension}", sample.payload)
                _add(tar, f"{sample.key}.{LABEL}", str(sample.label).encode())
                count += 1
        checksum, size = sha256(temporary), temporary.stat().st_size
    return Shard(name=name, samples=count, bytes=size, sha256=checksum)


class Hashing:
    """Counts and hashes what is read from a stream."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0
        self._stream: BinaryIO | None = None

    def of(self, stream: BinaryIO) -> BinaryIO:
        self._stream = stream
        return self  # type: ignore[return-value]  # read is all that tarfile asks of a stream

    def read(self, size: int = -1) -> bytes:
        assert self._stream is not None
        data = self._stream.read(size)
        self.hash.update(data)
        self.size += len(data)
        return data


def scan(
    url: str, hashing: Hashing | None = None, places: Places | None = None, part: bytes | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample of a tar, local or at any URL that WebDataset opens: its key and its members by extension.

    The stream is read to its end, and `hashing` sees all of it; `places` notes where samples lie. `part` is some of the tar's
    samples, read already.

    Raises:
        UserError: the tar cannot be opened, is truncated, or holds the same key twice.
    """
    seen: set[str] = set()
    places = Places() if places is None else places
    key, members = "", dict[str, bytes]()

    def wrap(opened: BinaryIO) -> BinaryIO:
        return opened if hashing is None else hashing.of(opened)

    try:
        with (
            _open(url) if part is None else io.BytesIO(part) as opened,
            tarfile.open(fileobj=(stream := wrap(opened)), mode="r|", tarinfo=_Header) as tar,
        ):
            for member in tar:
                if not member.isreg():
                    continue
                match = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]+)", member.name)
                if match is None:
                    continue
                if match[1] != key:
                    if members:
                        yield _noted(key, members, places)
                    key, members = match[1], {}
                    if key in seen:
                        raise UserError(f"{url}: the key {key} is there twice; keys must be unique in a dataset")
                    seen.add(key)
                    places.starts.append(member.offset)
                file = tar.extractfile(member)
                assert file is not None
                payload = file.read()
                if len(payload) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                members[match[2].lower()] = payload
                places.passed(member)
            while stream.read(1 << 20):
                pass
            if members:
                yield _noted(key, members, places)
    except FileNotFoundError:
        raise UserError(f"{url}: there is no such shard; restore it or import the dataset again") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        if status := re.search(r": exit (\d+) ", str(error)):
            raise UserError(
                f"{url}: cannot be fetched (its command ended with exit status {status[1]}); see that it can be reached"
            ) from None
        raise UserError(
            f"{url}: the tar is truncated or damaged ({error}); restore it or import the dataset again"
        ) from None


def check_size(url: str, shard: Shard) -> None:
    """Look at a local tar, which is free, before it is read or what was kept of it is used.

    Raises:
        UserError: it has another size than the manifest says.
    """
    if "://" not in url and Path(url).exists() and Path(url).stat().st_size != shard.bytes:
        raise UserError(
            f"{url}: the tar has {Path(url).stat().st_size} bytes where the manifest says {shard.bytes} "
            "(truncated or changed); restore it or import the dataset again"
        )


def _noted(key: str, members: dict[str, bytes], places: Places) -> tuple[str, dict[str, bytes]]:
    places.sums.append(checksum(members))
    return key, members


def decode_stretch(
    url: str, shard: Shard, spec: SampleSpec, index: Index, first: int, last: int
) -> NDArray[np.generic]:
    """(last - first, *shape) samples [first, last) of a shard, read by their range of bytes and checked one by one.

    Raises:
        UserError: they cannot be read, or are not those that the index knows.
    """
    x = np.empty((last - first, *spec.shape), dtype(spec))
    begin, end = int(index.starts[first]), int(index.starts[last])
    row = first
    for key, members in scan(url, part=ranges.read(url, begin, end) + bytes(2 * tarfile.BLOCKSIZE)):
        if row == last or key != index.keys[row] or checksum(members) != int(index.sums[row]):
            raise UserError(f"{url}: changed since it was imported; restore it or import the dataset again")
        extension = payload_extension(url, key, members)
        x[row - first] = decode_payload(f"{url}: {key}", extension, members[extension], spec)
        row += 1
    if row < last:
        raise UserError(f"{url}: changed since it was imported; restore it or import the dataset again")
    return x


def decode(url: str, shard: Shard, spec: SampleSpec, classes: int, places: Places | None = None) -> Decoded:
    """Decode a whole shard and check it against the manifest; `places` notes where its samples lie.

    Raises:
        UserError: the shard is truncated or was changed, a sample does not decode, has another shape, or its label is out of
            range.
    """
    check_size(url, shard)
    keys: list[str] = []
    x = np.empty((shard.samples, *spec.shape), dtype(spec))
    y = np.empty(shard.samples, np.int64)
    hashing = Hashing()
    for row, (key, members) in enumerate(scan(url, hashing, places)):
        if row == shard.samples:
            raise UserError(f"{url}: more samples than the {shard.samples} of the manifest; import the dataset again")
        extension = payload_extension(url, key, members)
        x[row] = decode_payload(f"{url}: {key}", extension, members[extension], spec)
        y[row] = decode_label(f"{url}: {key}", members, classes)
        keys.append(key)
    if len(keys) < shard.samples:
        raise UserError(f"{url}: {len(keys)} samples where the manifest says {shard.samples}; import the dataset again")
    if hashing.hash.hexdigest() != shard.sha256:
        raise UserError(f"{url}: changed since it was imported; restore it or import the dataset again")
    return Decoded(keys, ids_of(keys), x, y)


def ids_of(keys: Sequence[str]) -> NDArray[np.uint64]:
    """(N,) xxh3 of each key."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))


def dtype(spec: SampleSpec) -> np.dtype[np.generic]:
    """Of decoded samples."""
    return np.dtype(np.uint8 if spec.kind == "image" else np.float32)


def payload_extension(where: str, key: str, members: dict[str, bytes]) -> str:
    """The extension of the member that holds the sample itself."""
    for extension in members:
        if extension == "npy" or f".{extension}" in IMAGES:
            return extension
    raise UserError(f"{where}: sample {key} has neither an image nor a .npy member (only {', '.join(sorted(members))})")


def decode_label(where: str, members: dict[str, bytes], classes: int | None) -> int:
    """The class number of a sample; `classes` bounds it where it is known."""
    if LABEL not in members:
        raise UserError(f"{where}: no .{LABEL} member with the label; add one")
    try:
        label = int(members[LABEL])
    except ValueError:
        raise UserError(
            f"{where}: the label {members[LABEL][:20]!r} is not a number; a .{LABEL} member holds the class number"
        ) from None
    if label < 0 or (classes is not None and label >= classes):
        raise UserError(
            f"{where}: the label {label} is outside the classes 0 to {(classes or 0) - 1}; mend the label or the class list"
        )
    return label


def decode_payload(where: str, extension: str, payload: bytes, spec: SampleSpec) -> NDArray[np.generic]:
    """One sample as an array of the spec's shape; `where` names it in errors."""
    if extension == "npy":
        try:
            array: NDArray[np.generic] = np.load(io.BytesIO(payload), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{where}: the array does not decode ({error}); replace or remove it") from None
        if array.shape == spec.shape and (spec.kind == "array" or array.dtype == np.uint8):
            return array
        raise UserError(f"{where}: an array of shape {array.shape}, {array.dtype} where {spec.shape} is expected")
    array = decode_image(where, payload, spec.shape[0])
    if array.shape != spec.shape:
        raise UserError(
            f"{where}: an image of {array.shape[2]}x{array.shape[1]} pixels where {spec.shape[2]}x{spec.shape[1]} "
            "are expected; set data.image_size to resize on import"
        )
    return array


def decode_image(where: str, payload: bytes, channels: int) -> NDArray[np.uint8]:
    """An encoded image as (channels, height, width) uint8, grey for one channel and RGB for three."""
    try:
        with Image.open(io.BytesIO(payload)) as image:
            pixels = np.asarray(_eight_bits(image).convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # Pillow raises what its plugins raise
        raise UserError(f"{where}: the image does not decode ({error}); replace or remove it") from None
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, where Pillow would clip at 255; other images as they are."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no fixed range; save it with 8 or 16 bits")
    return image


class _Header(tarfile.TarInfo):
    """A header that is damaged or cut off raises; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from None
            raise


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    tar.addfile(info, io.BytesIO(payload))


def _open(url: str) -> BinaryIO:
    if "://" not in url and not url.startswith("pipe:"):
        return open(url, "rb")
    from webdataset.gopen import gopen

    try:
        stream: BinaryIO = gopen(url, "rb")
    except ValueError as error:
        raise UserError(f"{url}: WebDataset cannot open it ({error}); give a path, or a URL such as https://") from None
    return stream

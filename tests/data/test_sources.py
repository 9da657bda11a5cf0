"""Every source gives back the pixels it was given, and refuses what it cannot take in a sentence."""

import gzip
import io
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdscale import recipe
from kdscale.data import shards
from kdscale.data.importing import import_dataset
from kdscale.data.sources import open_source
from kdscale.data.sources.base import Source
from kdscale.data.sources.digit_strings import DigitStrings
from kdscale.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), np.uint8)
RGB = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def opened(kind: str, path: Path | str | None, image_size: int | None = None, **options: Any) -> Source:
    return open_source(kind, None if path is None else str(path), options, image_size)


def pixels(source: Source, tmp_path: Path) -> np.ndarray:
    """All samples of a source, through a shard and back."""
    shard = shards.write(tmp_path / "shards", "all.tar", (source.encode(row) for row in range(len(source.labels))))
    decoded = shards.decode(str(tmp_path / "shards/all.tar"), shard, source.spec, len(source.classes))
    assert decoded.y.tolist() == source.labels.tolist()
    assert len(set(decoded.keys)) == len(decoded.keys)
    return decoded.x


def refused(kind: str, path: Path | str | None, *words: str, image_size: int | None = None, **options: Any) -> None:
    """The source refuses to open, or to read a sample, and the message has these words."""

    def read_all() -> None:
        source = opened(kind, path, image_size, **options)
        for row in range(len(source.labels)):
            sample = source.encode(row)
            shards.decode_payload(source.where(row), sample.extension, sample.payload, source.spec)

    with pytest.raises(UserError) as caught:
        read_all()
    for word in words:
        assert word in str(caught.value)


def picture(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def write_idx(path: Path, array: np.ndarray, kind: int = 8, cut: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    raw = raw[: len(raw) - cut]
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def mnist(folder: Path, train: str = "train-images-idx3-ubyte", end: str = "") -> Path:
    write_idx(folder / f"{train}{end}", GREY[:4])
    write_idx(folder / f"train-labels-idx1-ubyte{end}", LABELS[:4])
    write_idx(folder / f"t10k-images-idx3-ubyte{end}", GREY[4:])
    write_idx(folder / f"t10k-labels-idx1-ubyte{end}", LABELS[4:])
    return folder


class TestOpening:
    def test_unknown_kind_names_the_nearest(self):
        refused("folders", "/tmp", "data.source", "folders", "did you mean folder?")

    def test_missing_path(self, tmp_path):
        refused("npz", tmp_path / "no.npz", "data.path", "no.npz does not exist")

    def test_no_path(self):
        refused("idx", None, "data.path", "idx")

    def test_url_that_only_shards_read(self):
        refused("npz", "https://example.org/a.npz", "URL", "shards")

    def test_unknown_option(self):
        refused("digits", None, "data.options.color", color="red")

    def test_digits_read_no_path(self):
        refused("digits", "mine", "reads nothing from mine")


class TestDigits:
    def test_values_are_spread_over_a_byte(self, tmp_path):
        from sklearn.datasets import load_digits

        source = opened("digits", None)
        assert source.spec.shape == (1, 8, 8)
        assert source.classes == [str(n) for n in range(10)]
        assert (pixels(source, tmp_path)[:, 0] == np.rint(load_digits().images * 255 / 16)).all()

    def test_resizes(self):
        source = opened("digits", None, 12)
        assert source.spec.shape == (1, 12, 12)
        assert shards.decode_image("", source.encode(0).payload, 1).shape == (1, 12, 12)


class TestIdx:
    @pytest.mark.parametrize(
        ("train", "end"),
        [("train-images-idx3-ubyte", ""), ("train-images-idx3-ubyte", ".gz"), ("train-images.idx3-ubyte", "")],
    )
    def test_plain_and_gzipped(self, tmp_path, train, end):
        source = opened("idx", mnist(tmp_path / "data", train, end), classes=["a", "b", "c"])
        assert (pixels(source, tmp_path)[:, 0] == GREY).all()
        assert source.splits is not None
        assert source.splits.tolist() == ["train"] * 4 + ["test"] * 2
        assert source.classes == ["a", "b", "c"]

    def test_missing_file(self, tmp_path):
        mnist(tmp_path)
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()
        refused("idx", tmp_path, "test-labels-idx1-ubyte", str(tmp_path))

    def test_truncated(self, tmp_path):
        write_idx(mnist(tmp_path) / "train-images-idx3-ubyte", GREY[:4], cut=3)
        refused("idx", tmp_path, "train-images-idx3-ubyte", "truncated", "77", "80")

    def test_not_idx(self, tmp_path):
        (mnist(tmp_path) / "train-images-idx3-ubyte").write_bytes(b"<html>")
        refused("idx", tmp_path, "train-images-idx3-ubyte", "not an idx file")

    def test_other_type(self, tmp_path):
        write_idx(mnist(tmp_path) / "train-images-idx3-ubyte", GREY[:4], kind=0x0D)
        refused("idx", tmp_path, "0x0d")

    def test_counts_differ(self, tmp_path):
        write_idx(mnist(tmp_path) / "train-labels-idx1-ubyte", LABELS[:3])
        refused("idx", tmp_path, "4 images", "train-labels-idx1-ubyte has 3 labels")

    @pytest.mark.parametrize("keep", [10, 40])
    def test_corrupt_gzip(self, tmp_path, keep):
        file = mnist(tmp_path, end=".gz") / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:keep])
        refused("idx", tmp_path, "train-images-idx3-ubyte.gz", "cannot be unpacked")

    def test_label_outside_the_classes(self, tmp_path):
        refused("idx", mnist(tmp_path), "train-images", "row 2", "label 2", "0 to 1", classes=["a", "b"])


class TestFolder:
    def test_keeps_the_bytes_of_grey_and_nested_files(self, tmp_path):
        root = tmp_path / "data"
        files = [picture(root / f"{'ab'[n % 2]}/x/{n}.v1.PNG", GREY[n]) for n in range(6)]
        (root / ".DS_Store").write_bytes(b"x")
        (root / "a/Thumbs.db").write_bytes(b"x")
        source = opened("folder", root)
        assert source.spec.shape == (1, 5, 4)
        assert source.classes == ["a", "b"]
        assert source.splits is None
        assert (pixels(source, tmp_path)[:, 0] == GREY[[0, 2, 4, 1, 3, 5]]).all()
        first = source.encode(0)
        assert (first.key, first.extension, first.payload) == ("a/x/0_v1", "png", files[0].read_bytes())

    def test_one_colour_image_makes_all_colour(self, tmp_path):
        picture(tmp_path / "data/a/1.png", GREY[0])
        picture(tmp_path / "data/b/1.png", RGB[0])
        found = pixels(opened("folder", tmp_path / "data"), tmp_path)
        assert (found[0] == GREY[0]).all()
        assert (found[1] == RGB[0].transpose(2, 0, 1)).all()

    def test_splits(self, tmp_path):
        for split in ("train", "valid", "test"):
            for name in ("a", "b"):
                picture(tmp_path / f"{split}/{name}/1.png", GREY[0])
        source = opened("folder", tmp_path)
        assert source.splits is not None
        assert source.splits.tolist() == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2
        assert source.classes == ["a", "b"]

    def test_16_bit_is_scaled_not_clipped(self, tmp_path):
        deep = GREY[0].astype(np.uint16) * 257
        picture(tmp_path / "data/a/1.png", deep)
        picture(tmp_path / "data/b/1.png", deep)
        source = opened("folder", tmp_path / "data")
        assert source.spec.shape == (1, 5, 4)
        assert (pixels(source, tmp_path)[0, 0] == GREY[0]).all()

    def test_jpeg_bytes_are_kept(self, tmp_path):
        file = picture(tmp_path / "a/1.jpeg", RGB[0])
        picture(tmp_path / "b/1.jpg", RGB[1])
        sample = opened("folder", tmp_path).encode(0)
        assert (sample.extension, sample.payload) == ("jpeg", file.read_bytes())

    def test_sizes_differ(self, tmp_path):
        one, other = picture(tmp_path / "a/1.png", GREY[0]), picture(tmp_path / "b/1.png", GREY[0][:3])
        with pytest.raises(UserError, match=r"a/1\.png has 4x5 .*b/1\.png 4x3; set data\.image_size"):
            _ = opened("folder", tmp_path).spec
        source = opened("folder", tmp_path, 4)
        assert source.spec.shape == (1, 4, 4)
        for row, file in enumerate((one, other)):
            with Image.open(file) as image:
                wanted = np.asarray(image.resize((4, 4), Image.Resampling.BILINEAR))
            assert (shards.decode_image("", source.encode(row).payload, 1)[0] == wanted).all()
            assert source.encode(row).extension == "png"

    def test_names_that_collide_get_other_keys(self, tmp_path):
        for name in ("x y.png", "x_y.png", "x.y.png", "x_y.jpg", f"{'long' * 40}.png"):
            picture(tmp_path / "data/a" / name, GREY[0])
        picture(tmp_path / "data/b/1.png", GREY[0])
        pixels(opened("folder", tmp_path / "data"), tmp_path)

    def test_unknown_file(self, tmp_path):
        picture(tmp_path / "a/1.png", GREY[0])
        (tmp_path / "a/notes.txt").write_text("x")
        refused("folder", tmp_path, "a/notes.txt", ".txt is not an image format")

    def test_file_beside_the_classes(self, tmp_path):
        picture(tmp_path / "a/1.png", GREY[0])
        picture(tmp_path / "1.png", GREY[0])
        refused("folder", tmp_path, f"{tmp_path}/1.png", "beside the class folders")

    def test_empty_class(self, tmp_path):
        picture(tmp_path / "a/1.png", GREY[0])
        (tmp_path / "b").mkdir()
        refused("folder", tmp_path, f"{tmp_path}/b", "no images")

    def test_no_class(self, tmp_path):
        refused("folder", tmp_path, "no class folders")

    def test_a_file_as_path(self, tmp_path):
        refused("folder", picture(tmp_path / "1.png", GREY[0]), "is a file")

    @pytest.mark.parametrize("image_size", [None, 4])
    def test_truncated_image(self, tmp_path, image_size):
        picture(tmp_path / "a/1.png", RGB[0])
        broken = picture(tmp_path / "b/2.png", RGB[1])
        broken.write_bytes(broken.read_bytes()[:80])
        refused("folder", tmp_path, "b/2.png", "does not decode", image_size=image_size)

    def test_no_image_at_all(self, tmp_path):
        picture(tmp_path / "a/1.png", RGB[0])
        (tmp_path / "a/2.png").write_bytes(b"<html>")
        refused("folder", tmp_path, "a/2.png", "not an image format")


class TestNpz:
    @pytest.mark.parametrize("layout", ["hw", "hwc", "chw", "one"])
    def test_images_of_any_layout(self, tmp_path, layout):
        x = {"hw": GREY, "hwc": RGB, "chw": RGB.transpose(0, 3, 1, 2), "one": GREY[..., None]}[layout]
        np.savez(tmp_path / "a.npz", x=x, y=LABELS)
        source = opened("npz", tmp_path / "a.npz")
        wanted = RGB.transpose(0, 3, 1, 2) if layout in ("hwc", "chw") else GREY[:, None]
        assert source.spec.kind == "image"
        assert source.splits is None
        assert (pixels(source, tmp_path) == wanted).all()

    @pytest.mark.parametrize(
        "names", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"]
    )
    def test_splits_by_name(self, tmp_path, names):
        arrays = dict(zip(names.split(), (GREY[:4], LABELS[:4, None], GREY[4:], LABELS[4:, None]), strict=True))
        np.savez_compressed(tmp_path / "a.npz", **arrays)
        source = opened("npz", tmp_path / "a.npz")
        assert source.splits is not None
        assert source.splits.tolist() == ["train"] * 4 + ["test"] * 2
        assert (pixels(source, tmp_path)[:, 0] == GREY).all()

    def test_folder_of_files(self, tmp_path):
        for split, part in (("train", slice(0, 3)), ("validation", slice(3, 5)), ("test", slice(5, 6))):
            np.savez(tmp_path / f"{split}.npz", x=GREY[part], y=LABELS[part])
        source = opened("npz", tmp_path)
        assert source.splits is not None
        assert source.splits.tolist() == ["train"] * 3 + ["validation"] * 2 + ["test"]
        assert (pixels(source, tmp_path)[:, 0] == GREY).all()

    @pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
    def test_everything_else_is_float32_arrays(self, tmp_path, dtype):
        x = RNG.normal(0, 50, (6, 7)).astype(dtype)
        np.savez(tmp_path / "a.npz", x=x, y=LABELS.astype(float))
        source = opened("npz", tmp_path / "a.npz")
        assert (source.spec.kind, source.spec.shape) == ("array", (7,))
        assert (pixels(source, tmp_path) == x.astype(np.float32)).all()

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, tmp_path, value):
        x = np.zeros((6, 7))
        x[4, 2] = value
        np.savez(tmp_path / "a.npz", x=x, y=LABELS)
        refused("npz", tmp_path / "a.npz", "a.npz: x row 4", "NaN or infinite")

    @pytest.mark.parametrize(
        ("x", "y", "words"),
        [
            (GREY, LABELS - 1, ["row 0", "-1", "negative"]),
            (GREY, LABELS + 0.5, ["row 0", "0.5", "not a whole number"]),
            (GREY, np.array(list("abcabc")), ["class numbers"]),
            (GREY, np.eye(6, 3), ["(6, 3)", "argmax"]),
            (GREY, LABELS[:5], ["6 samples but 5 labels"]),
            (GREY, LABELS * 1000, ["label 2000", "6 samples"]),
            (GREY[:0], LABELS[:0], ["no samples"]),
            (GREY.astype(complex), LABELS, ["complex128"]),
            (GREY[:, 0, 0], LABELS, ["(6,)"]),
            (np.array([{}] * 6), LABELS, ["array x", "never unpickled"]),
            (GREY, np.array([{}] * 6), ["array y", "never unpickled"]),
        ],
    )
    def test_refusals(self, tmp_path, x, y, words):
        np.savez(tmp_path / "a.npz", x=x, y=y)
        refused("npz", tmp_path / "a.npz", "a.npz", *words)

    def test_splits_that_differ(self, tmp_path):
        np.savez(tmp_path / "a.npz", x_train=GREY, y_train=LABELS, x_test=RGB, y_test=LABELS)
        refused("npz", tmp_path / "a.npz", "x_test", "x_train", "(5, 4, 3)")

    def test_other_names(self, tmp_path):
        np.savez(tmp_path / "a.npz", foo=GREY)
        refused("npz", tmp_path / "a.npz", "there is foo")

    def test_no_labels(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=GREY)
        refused("npz", tmp_path / "a.npz", "x has no labels")

    def test_image_size_of_arrays(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=GREY.astype(float), y=LABELS)
        refused("npz", tmp_path / "a.npz", "data.image_size", image_size=4)

    @pytest.mark.parametrize("damage", ["text", "cut"])
    def test_damaged(self, tmp_path, damage):
        file = tmp_path / "a.npz"
        np.savez(file, x=GREY, y=LABELS)
        file.write_bytes(b"hello" if damage == "text" else file.read_bytes()[:100])
        refused("npz", file, "a.npz", "cannot be read")

    def test_folder_without_splits(self, tmp_path):
        np.savez(tmp_path / "foo.npz", x=GREY, y=LABELS)
        refused("npz", tmp_path, "foo.npz", "no split")

    @pytest.mark.parametrize(("classes", "word"), [(["a", "a", "b"], "twice"), ("abc", "list"), (["a", "b"], "row 2")])
    def test_classes(self, tmp_path, classes, word):
        np.savez(tmp_path / "a.npz", x=GREY, y=LABELS)
        refused("npz", tmp_path / "a.npz", word, classes=classes)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def write_parquet(path: Path, images: list[Any], labels: Any, names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    return path


class TestParquet:
    ROWS = tuple({"bytes": encoded(array), "path": f"{n}.png"} for n, array in enumerate(RGB))

    def test_as_hugging_face_writes_it(self, tmp_path):
        names = ["cat", "dog", "owl"]
        write_parquet(tmp_path / "d/data/train-00000-of-00001.parquet", list(self.ROWS[:4]), LABELS[:4], names)
        write_parquet(tmp_path / "d/data/test-00000-of-00001.parquet", list(self.ROWS[4:]), LABELS[4:], names)
        source = opened("parquet", tmp_path / "d")
        assert source.classes == names
        assert source.splits is not None
        assert source.splits.tolist() == ["train"] * 4 + ["test"] * 2
        assert (pixels(source, tmp_path) == RGB.transpose(0, 3, 1, 2)).all()
        assert source.encode(3).payload == self.ROWS[3]["bytes"]
        assert source.where(5).endswith("test-00000-of-00001.parquet: row 1")

    def test_binary_images_and_string_labels(self, tmp_path):
        file = write_parquet(tmp_path / "a.parquet", [encoded(x, "BMP") for x in GREY], list("cabcab"))
        source = opened("parquet", file)
        assert source.classes == ["a", "b", "c"]
        assert source.labels.tolist() == [2, 0, 1, 2, 0, 1]
        assert source.spec.shape == (1, 5, 4)
        assert (pixels(source, tmp_path)[:, 0] == GREY).all()

    def test_lists(self, tmp_path):
        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"z": pa.array(GREY.tolist(), pa.list_(pa.list_(pa.uint8()))), "y": LABELS}), file)
        assert (pixels(opened("parquet", file, image="z"), tmp_path)[:, 0] == GREY).all()

    def test_fixed_size_lists(self, tmp_path):
        x = RNG.normal(size=(6, 3)).astype(np.float32)
        pq.write_table(
            pa.table({"x": pa.array(list(x), pa.list_(pa.float32(), 3)), "y": LABELS}), tmp_path / "a.parquet"
        )
        assert (pixels(opened("parquet", tmp_path / "a.parquet"), tmp_path) == x).all()

    def test_resizes(self, tmp_path):
        source = opened("parquet", write_parquet(tmp_path / "a.parquet", list(self.ROWS), LABELS), 3)
        assert pixels(source, tmp_path).shape == (6, 3, 3, 3)

    def test_rows_beyond_the_cache_are_read_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr("kdscale.data.sources.parquet.CACHE_BYTES", 1)
        source = opened("parquet", write_parquet(tmp_path / "a.parquet", list(self.ROWS), LABELS))
        assert (pixels(source, tmp_path) == RGB.transpose(0, 3, 1, 2)).all()

    def test_bad_image(self, tmp_path):
        rows = [*self.ROWS[:5], {"bytes": b"hello", "path": None}]
        file = write_parquet(tmp_path / "a.parquet", rows, LABELS)
        refused("parquet", file, "a.parquet: row 5", "not an image format")

    def test_no_bytes(self, tmp_path):
        rows = [{"bytes": None, "path": "x.png"}, *self.ROWS[1:]]
        refused("parquet", write_parquet(tmp_path / "a.parquet", rows, LABELS), "row 0", "no image bytes")

    def test_null_label(self, tmp_path):
        file = write_parquet(tmp_path / "a.parquet", list(self.ROWS), [0, 1, None, 0, 1, 2])
        refused("parquet", file, "a.parquet", "row 2", "null")

    def test_negative_label(self, tmp_path):
        refused("parquet", write_parquet(tmp_path / "a.parquet", list(self.ROWS), LABELS - 1), "row 0", "negative")

    def test_label_outside_the_classes(self, tmp_path):
        file = write_parquet(tmp_path / "a.parquet", list(self.ROWS), LABELS, ["a", "b"])
        refused("parquet", file, "label 2", "0 to 1")

    def test_no_column(self, tmp_path):
        file = write_parquet(tmp_path / "a.parquet", list(self.ROWS), LABELS)
        refused("parquet", file, "data.options.label", "fine", "image, label", label="fine")
        pq.write_table(pa.table({"foo": LABELS, "label": LABELS}), file)
        refused("parquet", file, "no column is called image", "data.options.image", "foo, label")

    def test_ragged_lists(self, tmp_path):
        file = tmp_path / "a.parquet"
        pq.write_table(pa.table({"x": [[1.0], [1.0, 2.0]], "y": [0, 1]}), file)
        refused("parquet", file, "a.parquet", "differ in length")

    def test_damaged(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
        refused("parquet", tmp_path / "a.parquet", "a.parquet", "not a readable Parquet file")

    def test_empty_folder(self, tmp_path):
        refused("parquet", tmp_path, "no .parquet files")

    def test_files_without_a_split_among_others(self, tmp_path):
        write_parquet(tmp_path / "train-0.parquet", list(self.ROWS), LABELS)
        write_parquet(tmp_path / "foo.parquet", list(self.ROWS), LABELS)
        refused("parquet", tmp_path, "foo.parquet", "no split")


MODULE = """
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

def mapping(path, n=6):
    return {"x_train": np.zeros((n, 5, 4), np.uint8), "y_train": np.arange(n) % 3}

def pictures(path, mixed=False):
    for n in range(6):
        yield Image.new("RGB" if n == 5 else "L", (4, 5 + mixed * n), n), n % 3

def vectors(path):
    return [(np.full(3, n, np.float32), n % 2) for n in range(4)]

def ragged(path):
    return [(np.zeros(n + 1), n % 2) for n in range(4)]

def number(path):
    return 3

def triples(path):
    return [(1, 2, 3)]

def nothing(path):
    return []

def failing(path):
    raise KeyError("weights")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current directory that holds the functions above."""
    (tmp_path / "mine_of_kdscale.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "mine_of_kdscale"
    sys.modules.pop("mine_of_kdscale", None)


class TestFunction:
    def test_mapping(self, module):
        source = opened(f"{module}:mapping", None, n=9)
        assert len(source.labels) == 9
        assert source.splits is not None

    def test_pictures_of_which_one_is_colour(self, module, tmp_path):
        x = pixels(opened(f"{module}:pictures", None), tmp_path)
        assert x.shape == (6, 3, 5, 4)
        assert (x[3] == 3).all()

    def test_pictures_of_several_sizes(self, module, tmp_path):
        refused(f"{module}:pictures", None, "row 0 has 4x5", "row 1 4x6", "data.image_size", mixed=True)
        assert pixels(opened(f"{module}:pictures", None, 6, mixed=True), tmp_path).shape == (6, 3, 6, 6)

    def test_vectors(self, module, tmp_path):
        assert (pixels(opened(f"{module}:vectors", None), tmp_path) == np.arange(4)[:, None]).all()

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("absent", ["has no function absent"]),
            ("ragged", ["row 1", "(2,)", "(1,)"]),
            ("number", ["returned int"]),
            ("triples", ["row 0", "pair"]),
            ("nothing", ["no samples"]),
            ("failing", ["KeyError", "weights"]),
        ],
    )
    def test_refusals(self, module, name, words):
        refused(f"{module}:{name}", None, "data.source", *words)

    def test_no_module(self):
        refused("not_there_at_all:f", None, "not_there_at_all", "cannot be imported")

    def test_wrong_option(self, module):
        refused(f"{module}:mapping", None, "TypeError", "m", m=1)


class TestDigitStrings:
    SMALL: ClassVar[dict[str, Any]] = {"length": 2, "train": 300, "validation": 50, "test": 70}

    @staticmethod
    def source(path: Path | None = None, **options: Any) -> DigitStrings:
        source = opened("digit_strings", path, **TestDigitStrings.SMALL | options)
        assert isinstance(source, DigitStrings)
        return source

    def test_digits_may_be_made_smaller(self):
        small, whole = self.source(size=4), self.source()
        assert small.spec.shape == (1, 4, 8)
        assert small.spec.shape[2] * 2 == whole.spec.shape[2]
        averaged = whole.pixels(0).reshape(1, 4, 2, -1, 2).mean((2, 4))
        assert np.abs(small.pixels(0) - averaged).max() <= 1

    def test_a_string_is_its_digits_side_by_side(self, tmp_path):
        source = self.source()
        assert source.spec.shape == (1, 8, 16)
        assert source.classes == [f"{number:02d}" for number in range(100)]
        for row, x in enumerate(pixels(source, tmp_path)[:40]):
            split = str(source.splits[row])
            for place, digit in enumerate(source.classes[source.labels[row]]):
                half = x[0, :, 8 * place : 8 * place + 8]
                assert (source._pictures[split][int(digit)] == half).all((1, 2)).any()

    def test_splits_share_no_picture(self):
        dealt = self.source()._pictures
        for digit in range(10):
            found = [{picture.tobytes() for picture in dealt[split][digit]} for split in dealt]
            assert all(found)
            assert len(set.union(*found)) == sum(map(len, found))
        assert sum(len(pictures) for lists in dealt.values() for pictures in lists) == 1797

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 2**31), row=st.integers(0, 419))
    def test_a_string_depends_on_seed_and_row_alone(self, seed, row):
        one, other = self.source(seed=seed), self.source(seed=seed)
        [other.encode(before) for before in range(3)]
        assert one.encode(row) == other.encode(row)
        assert self.source(seed=seed + 1).encode(row).payload != one.encode(row).payload

    def test_every_class_is_trained_on_and_counts_are_as_asked(self):
        for zipf in (0, 1.5):
            source = self.source(zipf=zipf)
            train = source.labels[source.splits == "train"]
            assert np.unique(train).size == 100
            assert [int((source.splits == split).sum()) for split in ("train", "validation", "test")] == [300, 50, 70]

    def test_zipf_skews_all_splits_alike(self):
        source = self.source(zipf=1.0, train=20_000, test=20_000)
        train, test = (np.bincount(source.labels[source.splits == split], minlength=100) for split in ("train", "test"))
        assert np.corrcoef(train, test)[0, 1] > 0.99
        assert train.max() / train.sum() == pytest.approx(1 / sum(1 / n for n in range(1, 101)), rel=0.1)
        even = np.bincount(self.source(train=1_050).labels[:1_050])
        assert even.max() - even.min() <= 1

    def test_noise_and_fewer_digits(self):
        plain, noisy = self.source(), self.source(noise=0.2)
        difference = noisy.pixels(0).astype(int) - plain.pixels(0).astype(int)
        assert 10 < np.abs(difference).max() <= 255
        few = self.source(digits=3)._pictures
        assert [len(pictures) for pictures in few["train"]] == [3] * 10
        assert len(few["test"][0]) > 3

    def test_digits_of_mnist_files_keep_their_test_split(self, tmp_path):
        x, y = RNG.integers(0, 256, (60, 4, 5), np.uint8), np.arange(60) % 10
        for split, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
            write_idx(tmp_path / f"{split}-images-idx3-ubyte", x[rows])
            write_idx(tmp_path / f"{split}-labels-idx1-ubyte", y[rows])
        source = self.source(tmp_path)
        assert source.spec.shape == (1, 4, 10)
        assert sum(map(len, source._pictures["test"])) == 20
        assert (source._pictures["test"][3] == x[40:][y[40:] == 3]).all()

    def test_imports_the_same_with_any_number_of_workers(self, tmp_path):
        data = recipe.Data(source="digit_strings", options=self.SMALL, shard_size=64)
        one, two = (import_dataset(data, 0, tmp_path / str(n), workers=n) for n in (1, 2))
        assert one.fingerprint == two.fingerprint
        assert one.samples("test") == 70

    @pytest.mark.parametrize(
        ("option", "value"),
        [("length", 0), ("length", 9), ("train", 99), ("test", 0), ("noise", -1), ("zipf", "x"), ("digits", 0)],
    )
    def test_refuses_options_out_of_range(self, option, value):
        refused("digit_strings", None, f"data.options.{option}", **self.SMALL | {option: value})

    def test_refuses_other_pictures(self, tmp_path):
        refused("digit_strings", mnist(tmp_path), "ten digits")


class TestOmniglot:
    @staticmethod
    def archive(file: Path, characters: dict[str, int]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, drawings in characters.items():
                for number in range(drawings):
                    pixels = np.full((7, 7), 255, np.uint8)
                    pixels[number] = 0
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).convert("1").save(buffer, "png")
                    archive.writestr(f"{file.stem}/{name}/{number:02d}.png", buffer.getvalue())

    def test_characters_are_classes_and_what_is_there_twice_counts_once(self, tmp_path):
        self.archive(tmp_path / "a.zip", {"Greek/character01": 3, "Latin/character01": 2})
        self.archive(tmp_path / "b.zip", {"Greek/character01": 3, "Tagalog/character02": 1})
        source = opened("omniglot", tmp_path)
        assert source.classes == ["Greek/character01", "Latin/character01", "Tagalog/character02"]
        assert source.labels.tolist() == [0, 0, 0, 1, 1, 2]
        x = pixels(source, tmp_path)
        assert source.spec.shape == (1, 7, 7)
        assert [int(one[0, :, 0].argmax()) for one in x] == [0, 1, 2, 0, 1, 0]
        assert x[0].sum() == 7 * 255

    def test_other_files_are_refused(self, tmp_path):
        refused("omniglot", tmp_path, "has no zip file")
        (tmp_path / "a.zip").write_bytes(b"no zip")
        refused("omniglot", tmp_path, "a.zip: cannot be read")
        self.archive(tmp_path / "a.zip", {})
        refused("omniglot", tmp_path, "holds no drawings")

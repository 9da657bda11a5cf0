"""Shards: standard tars, written whole, read with suspicion."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from kdscale.data import shards
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.data.shards import Encoded
from kdscale.errors import UserError

SPEC = SampleSpec(kind="image", shape=(1, 4, 5))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def samples() -> list[Encoded]:
    random = np.random.default_rng(0)
    return [Encoded(f"s{i:03d}", "png", png(random.integers(0, 256, (4, 5), np.uint8)), i % 3) for i in range(10)]


def test_what_is_written_reads_back(tmp_path: Path, samples: list[Encoded]) -> None:
    shard = shards.write(tmp_path, "a.tar", samples)
    decoded = shards.decode(str(tmp_path / "a.tar"), shard, SPEC, 3)
    assert decoded.keys == [s.key for s in samples]
    assert decoded.y.tolist() == [s.label for s in samples]
    for row, sample in zip(decoded.x, samples, strict=True):
        assert (row[0] == np.asarray(Image.open(io.BytesIO(sample.payload)))).all()


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, samples: list[Encoded]) -> None:
    assert shards.write(tmp_path, "a.tar", samples).sha256 == shards.write(tmp_path, "b.tar", samples).sha256


def test_webdataset_itself_reads_a_shard(tmp_path: Path, samples: list[Encoded]) -> None:
    shards.write(tmp_path, "a.tar", samples)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [r["__key__"] for r in read] == [s.key for s in samples]
    assert read[4]["cls"] == b"1"


def test_a_truncated_tar_is_refused(tmp_path: Path, samples: list[Encoded]) -> None:
    shard = shards.write(tmp_path, "a.tar", samples)
    path = tmp_path / "a.tar"
    path.write_bytes(path.read_bytes()[: shard.bytes // 2])
    with pytest.raises(UserError, match=r"a\.tar: the tar has \d+ bytes where the manifest says"):
        shards.decode(str(path), shard, SPEC, 3)
    with pytest.raises(UserError, match="truncated or damaged"):
        list(shards.scan(str(path)))


def test_a_missing_shard_is_named(tmp_path: Path, samples: list[Encoded]) -> None:
    shard = shards.write(tmp_path, "a.tar", samples)
    with pytest.raises(UserError, match=r"b\.tar: there is no such shard"):
        shards.decode(str(tmp_path / "b.tar"), shard, SPEC, 3)


def test_a_label_outside_the_classes_is_named(tmp_path: Path, samples: list[Encoded]) -> None:
    shard = shards.write(tmp_path, "a.tar", samples)
    with pytest.raises(UserError, match=r"s002: the label 2 is outside the classes 0 to 1"):
        shards.decode(str(tmp_path / "a.tar"), shard, SPEC, 2)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path, samples: list[Encoded]) -> None:
    samples[3] = Encoded("broken", "png", samples[3].payload[:40], 0)
    shard = shards.write(tmp_path, "a.tar", samples)
    with pytest.raises(UserError, match=r"a\.tar: broken: the image does not decode"):
        shards.decode(str(tmp_path / "a.tar"), shard, SPEC, 3)


def test_pickles_in_a_shard_are_never_loaded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    shard = shards.write(tmp_path, "a.tar", [Encoded("k", "npy", buffer.getvalue(), 0)])
    with pytest.raises(UserError, match="the array does not decode"):
        shards.decode(str(tmp_path / "a.tar"), shard, SampleSpec(kind="array", shape=(1,)), 2)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, samples: list[Encoded]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.cls", "b.cls", "a.png"):
            shards._add(tar, name, b"0")
    with pytest.raises(UserError, match="the key a is there twice"):
        list(shards.scan(str(tmp_path / "a.tar")))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, samples: list[Encoded]) -> None:
    def broken():
        yield samples[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        shards.write(tmp_path, "a.tar", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(classes=["a", "b"], sample=SPEC, mean=[0.1], std=[0.2], splits={"train": []})
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    with pytest.raises(UserError, match="changed after it was written"):
        Manifest.load(tmp_path)
    with pytest.raises(UserError, match=r"no manifest\.json there"):
        Manifest.load(tmp_path / "none")

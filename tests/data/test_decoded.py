"""Decoded shards that are kept beside a dataset."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from kdscale.data import decoded, shards
from kdscale.data.dataset import Dataset
from kdscale.data.importing import import_dataset
from kdscale.data.manifest import Manifest
from kdscale.errors import UserError
from kdscale.recipe import Data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import_dataset(Data(), 0, tmp_path / "data")
    return tmp_path / "data"


def files(folder: Path) -> list[Path]:
    return sorted((folder / decoded.FOLDER).iterdir())


def equal(a: shards.Decoded, b: shards.Decoded) -> bool:
    same = [np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ids", "x", "y")]
    return a.keys == b.keys and a.x.dtype == b.x.dtype and a.ids.dtype == b.ids.dtype and all(same)


@pytest.mark.parametrize("kept_by", ["the import", "the first reader"])
def test_what_is_kept_is_what_the_tar_holds(folder: Path, kept_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load(folder)
    held = [shards.decode(str(folder / s.name), s, manifest.sample, 10) for s in manifest.splits["train"]]
    if kept_by == "the first reader":
        decoded.forget(folder)
        Dataset(folder, "train").decoded(0)
        assert len(files(folder)) == 1
    else:
        assert len(files(folder)) == sum(map(len, manifest.splits.values()))
    monkeypatch.setattr(shards, "decode", lambda *_: pytest.fail("decoded again"))
    assert equal(Dataset(folder, "train").decoded(0), held[0])


def test_arrays_are_kept_as_float32(tmp_path: Path) -> None:
    x, y = np.arange(80, dtype=np.float64).reshape(40, 2), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    import_dataset(Data(source="npz", path=str(tmp_path / "x.npz")), 0, tmp_path / "data")
    manifest = Manifest.load(tmp_path / "data")
    (shard,) = manifest.splits["train"]
    kept = decoded.load(tmp_path / "data", shard, manifest)
    assert kept is not None
    assert equal(kept, shards.decode(str(tmp_path / "data" / shard.name), shard, manifest.sample, 2))


def test_a_damaged_file_is_made_again(folder: Path) -> None:
    dataset = Dataset(folder, "train")
    whole = dataset.decoded(0)
    for kept in files(folder):
        half = kept.read_bytes()[: kept.stat().st_size // 2]
        kept.unlink()  # the old file is still mapped
        kept.write_bytes(half)
    assert equal(Dataset(folder, "train").decoded(0), whole)
    assert decoded.load(folder, dataset.shards[0], dataset.manifest) is not None


def test_splits_beyond_the_bound_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MOST", 500 * 64)  # the test split has 359 samples, the training split 1,294
    manifest = import_dataset(Data(), 0, tmp_path)
    Dataset(tmp_path, "train").decoded(0)
    kept = {
        split: decoded.load(tmp_path, manifest.splits[split][0], manifest) is not None for split in ("train", "test")
    }
    assert kept == {"train": False, "test": True}


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    decoded.forget(folder)
    (folder / decoded.FOLDER).write_text("a file where the folder should be")
    assert len(Dataset(folder, "train").decoded(0).keys) == Dataset(folder, "train").sizes[0]


def test_an_import_forgets_what_was_kept_of_the_last(folder: Path) -> None:
    before = files(folder)
    import_dataset(Data(), 1, folder)
    assert not set(before) & set(files(folder))


def test_a_tar_that_was_changed_is_refused(folder: Path) -> None:
    decoded.forget(folder)
    dataset = Dataset(folder, "train")
    tar = folder / dataset.shards[0].name
    held = tar.read_bytes()
    label = held.index(b".cls\0")  # the header of a label; its digit comes in the next block
    at = label - label % 512 + 512
    tar.write_bytes(held[:at] + bytes([ord("0") + (held[at] - ord("0") + 1) % 10]) + held[at + 1 :])
    assert hashlib.sha256(tar.read_bytes()).hexdigest() != dataset.shards[0].sha256
    with pytest.raises(UserError, match=r"train-000000\.tar: changed since it was imported; restore it"):
        dataset.decoded(0)
    assert not (folder / decoded.FOLDER).exists()


def test_a_truncated_tar_is_refused_although_it_is_kept(folder: Path) -> None:
    dataset = Dataset(folder, "train")
    tar = folder / dataset.shards[0].name
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(UserError, match="truncated or changed"):
        dataset.decoded(0)

"""An import is the same for any number of workers, keeps proportions, and refuses what no one could train on."""

import errno
import http.server
import os
import shutil
import tarfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdscale import recipe
from kdscale.data import shards
from kdscale.data.decoded import FOLDER as KEPT
from kdscale.data.importing import import_dataset
from kdscale.data.manifest import FILE, Manifest
from kdscale.errors import RunFailure, UserError

RNG = np.random.default_rng(0)


def save(path: Path, n: int = 120, classes: int = 4, **more: Any) -> recipe.Data:
    """n grey images, class 0 half of them, as an .npz; the recipe's section that names it."""
    y = np.where(np.arange(n) % 2, 0, 1 + np.arange(n) // 2 % (classes - 1))
    np.savez(path, x=RNG.integers(0, 256, (n, 5, 4), np.uint8), y=y)
    return recipe.Data(source="npz", path=str(path), **{"shard_size": 25, **more})


def labels(out: Path, manifest: Manifest, split: str) -> np.ndarray:
    return np.concatenate([decoded(out, manifest, shard).y for shard in manifest.splits[split]])


def decoded(out: Path, manifest: Manifest, shard: Any) -> shards.Decoded:
    return shards.decode(str(out / shard.name), shard, manifest.sample, len(manifest.classes))


def refused(data: recipe.Data, out: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        import_dataset(data, 0, out)
    for word in words:
        assert word in str(caught.value)
    assert not (out / FILE).exists()


def folder_of_images(root: Path, n: int = 12) -> recipe.Data:
    for number in range(n):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (5, 4, 3), np.uint8)).save(file)
    return recipe.Data(source="folder", path=str(root), shard_size=4)


class TestImport:
    def test_every_sample_is_in_one_split_and_shards_mix_classes(self, tmp_path):
        seen: list[tuple[int, int]] = []
        data = save(tmp_path / "a.npz")
        manifest = import_dataset(data, 0, tmp_path / "out", lambda done, total: seen.append((done, total)))
        assert Manifest.load(tmp_path / "out") == manifest
        assert seen[-1] == (120, 120)
        keys: set[str] = set()
        train = []
        for split, group in manifest.splits.items():
            for shard in group:
                found = decoded(tmp_path / "out", manifest, shard)
                keys.update(found.keys)
                if split == "train":
                    train.append(found.x / 255)
                    assert len(set(found.y.tolist())) > 1
        assert len(keys) == 120
        assert manifest.mean == pytest.approx([np.concatenate(train).mean()])
        assert manifest.std == pytest.approx([np.concatenate(train).std()])
        assert sorted(os.listdir(tmp_path / "out")) == sorted(
            [FILE, KEPT, *(shard.name for group in manifest.splits.values() for shard in group)]
        )

    def test_cuts_are_stratified(self, tmp_path):
        manifest = import_dataset(save(tmp_path / "a.npz"), 0, tmp_path / "out")
        assert {split: manifest.samples(split) for split in manifest.splits} == {
            "train": 86,
            "validation": 10,
            "test": 24,
        }
        assert np.bincount(labels(tmp_path / "out", manifest, "test")).tolist() == [12, 4, 4, 4]

    def test_counts_and_no_validation(self, tmp_path):
        manifest = import_dataset(save(tmp_path / "a.npz", test=10, validation=0), 0, tmp_path / "out")
        assert {split: manifest.samples(split) for split in manifest.splits} == {
            "train": 110,
            "validation": 0,
            "test": 10,
        }

    def test_rare_classes_stay_in_training(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((11, 2, 2), np.uint8), y=[0] * 10 + [1])
        data = recipe.Data(source="npz", path=str(tmp_path / "a.npz"), test=8)
        manifest = import_dataset(data, 0, tmp_path / "out")
        assert 1 in labels(tmp_path / "out", manifest, "train")
        assert manifest.std == [1.0]

    def test_native_splits_are_kept(self, tmp_path):
        x, y = RNG.integers(0, 256, (30, 5, 4), np.uint8), np.arange(30) % 3
        np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
        manifest = import_dataset(recipe.Data(source="npz", path=str(tmp_path / "a.npz")), 0, tmp_path / "out")
        assert [manifest.samples(split) for split in ("train", "validation", "test")] == [18, 2, 10]
        found = decoded(tmp_path / "out", manifest, manifest.splits["test"][0])
        assert sorted(map(bytes, found.x)) == sorted(map(bytes, x[20:]))

    def test_arrays(self, tmp_path):
        x = RNG.normal(5, 2, (40, 7))
        np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(40) % 2, x_test=x, y_test=np.arange(40) % 2)
        data = recipe.Data(source="npz", path=str(tmp_path / "a.npz"), validation=0)
        manifest = import_dataset(data, 0, tmp_path / "out")
        assert manifest.mean == pytest.approx([x.mean()], rel=1e-6)
        assert manifest.std == pytest.approx([x.std()], rel=1e-6)

    def test_any_number_of_workers_gives_the_same_bytes(self, tmp_path):
        data = folder_of_images(tmp_path / "images", 24)
        one = import_dataset(data, 3, tmp_path / "one", workers=1)
        two = import_dataset(data, 3, tmp_path / "two", workers=2)
        assert one.fingerprint == two.fingerprint
        for shard in (shard for group in one.splits.values() for shard in group):
            assert (tmp_path / "one" / shard.name).read_bytes() == (tmp_path / "two" / shard.name).read_bytes()
        assert import_dataset(data, 4, tmp_path / "four").fingerprint != one.fingerprint

    def test_errors_of_workers_arrive_as_sentences(self, tmp_path):
        data = folder_of_images(tmp_path / "images")
        broken = tmp_path / "images/a/4.png"
        broken.write_bytes(broken.read_bytes()[:-40])
        with pytest.raises(UserError, match=r"a/4\.png: the image does not decode"):
            import_dataset(data, 0, tmp_path / "out", workers=2)
        assert not (tmp_path / "out" / FILE).exists()

    def test_a_killed_import_is_run_again(self, tmp_path, monkeypatch):
        data, out = save(tmp_path / "a.npz"), tmp_path / "out"
        whole = import_dataset(data, 0, tmp_path / "whole")
        write, calls = shards.write, []

        def dies(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return write(*arguments)

        monkeypatch.setattr(shards, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            import_dataset(data, 0, out)
        monkeypatch.undo()
        assert not (out / FILE).exists()
        (out / ".tmp-train-000002.tar-0123abcd").write_bytes(b"half")
        (out / ".tmp-of-mine").write_bytes(b"precious")
        assert import_dataset(data, 0, out) == whole
        assert (out / ".tmp-of-mine").exists()
        assert not (out / ".tmp-train-000002.tar-0123abcd").exists()

    def test_imports_again_over_its_own(self, tmp_path):
        data, out = save(tmp_path / "a.npz"), tmp_path / "out"
        import_dataset(data, 0, out)
        assert import_dataset(data, 1, out) == Manifest.load(out)

    @pytest.mark.parametrize("name", ["train-000000.tar", FILE])
    def test_overwrites_no_file_of_the_users(self, tmp_path, name):
        data, out = save(tmp_path / "a.npz"), tmp_path / "out"
        out.mkdir()
        (out / name).write_text("[]")
        with pytest.raises(UserError, match=name):
            import_dataset(data, 0, out)
        assert (out / name).read_text() == "[]"

    def test_full_disk(self, tmp_path, monkeypatch):
        def full(*arguments: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shards, "write", full)
        with pytest.raises(RunFailure, match=r"out: no space is left"):
            import_dataset(save(tmp_path / "a.npz"), 0, tmp_path / "out")


class TestRefusals:
    def test_unknown_source(self, tmp_path):
        refused(recipe.Data(source="shard"), tmp_path / "out", "did you mean shards?")

    def test_one_class(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((6, 2, 2), np.uint8), y=np.zeros(6, int))
        data = recipe.Data(source="npz", path=str(tmp_path / "a.npz"))
        refused(data, tmp_path / "out", "a.npz", "all 6 samples are of the class 0", "at least two")

    def test_class_without_samples(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((6, 2, 2), np.uint8), y=[0, 2] * 3)
        data = recipe.Data(source="npz", path=str(tmp_path / "a.npz"))
        refused(data, tmp_path / "out", "the class 1 has no sample in the training split")

    def test_no_training_split(self, tmp_path):
        np.savez(tmp_path / "a.npz", x_test=np.zeros((6, 2, 2), np.uint8), y_test=[0, 1] * 3)
        refused(recipe.Data(source="npz", path=str(tmp_path / "a.npz")), tmp_path / "out", "no training samples")

    def test_no_test_split_wanted(self, tmp_path):
        refused(save(tmp_path / "a.npz", test=0), tmp_path / "out", "data.test", "no test split")

    def test_too_small(self, tmp_path):
        refused(save(tmp_path / "a.npz", 4), tmp_path / "out", "data.validation: 1 of the 3")
        refused(save(tmp_path / "a.npz", test=118), tmp_path / "out", "data.test: 118", "at most 116")

    def test_nan(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.full((6, 3), np.nan), y=[0, 1] * 3)
        refused(recipe.Data(source="npz", path=str(tmp_path / "a.npz")), tmp_path / "out", "x row", "NaN")


@pytest.fixture
def tars(tmp_path):
    """A folder of tars made by an import, without its manifest, and that manifest."""
    manifest = import_dataset(save(tmp_path / "a.npz"), 0, tmp_path / "tars")
    (tmp_path / "tars" / FILE).unlink()
    return tmp_path / "tars", manifest


def in_place(path: Path | str | None, **more: Any) -> recipe.Data:
    return recipe.Data(source="shards", path=None if path is None else str(path), **more)


def named(folder: Path | str, manifest: Manifest) -> dict[str, Any]:
    return {
        split: [shard.model_copy(update={"name": f"{folder}/{shard.name}"}) for shard in group]
        for split, group in manifest.splits.items()
    }


def silent(folder: Path) -> None:
    """Rename tars so that their names say no split."""
    for number, file in enumerate(sorted(folder.glob("*.tar"))):
        file.rename(folder / f"{number:03d}.tar")


class TestTarsInPlace:
    def test_a_folder_is_scanned(self, tmp_path, tars):
        folder, manifest = tars
        before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
        found = import_dataset(in_place(folder), 0, tmp_path / "out")
        assert found.splits == named(folder, manifest)
        assert found.sample == manifest.sample
        assert found.classes == manifest.classes
        assert (found.mean, found.std) == (pytest.approx(manifest.mean), pytest.approx(manifest.std))
        assert Manifest.load(tmp_path / "out") == found
        assert os.listdir(tmp_path / "out") == [FILE]
        assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
        shard = found.splits["train"][0]
        assert len(decoded(tmp_path / "out", found, shard).keys) == shard.samples

    def test_a_manifest_of_ours_is_taken(self, tmp_path, tars):
        folder, manifest = tars
        manifest.save(folder)
        found = import_dataset(in_place(folder), 0, tmp_path / "out")
        assert found.splits == named(folder, manifest)
        assert found.mean == manifest.mean

    @pytest.mark.parametrize("damage", ["missing", "short", "edited"])
    def test_a_manifest_of_ours_that_does_not_fit(self, tmp_path, tars, damage):
        folder, manifest = tars
        manifest.save(folder)
        file = folder / "train-000001.tar"
        if damage == "missing":
            file.unlink()
        elif damage == "short":
            file.write_bytes(file.read_bytes()[:-512])
        else:
            file = folder / FILE
            file.write_text(file.read_text().replace('"samples": 25', '"samples": 24'))
        refused(in_place(folder), tmp_path / "out", str(file))

    def test_over_http(self, tmp_path, tars):
        folder, manifest = tars
        handler = partial(_Quiet, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            root = f"http://127.0.0.1:{server.server_port}"
            options = {
                "train": f"{root}/train-{{000000..000003}}.tar",
                "validation": f"{root}/validation-000000.tar",
                "test": [f"{root}/test-000000.tar"],
            }
            found = import_dataset(in_place(None, options=options), 0, tmp_path / "out", workers=1)
            assert found.splits == named(root, manifest)
            refused(in_place(f"{root}/train-000009.tar"), tmp_path / "none", "train-000009.tar: cannot be fetched")
            server.shutdown()

    def test_pipes_and_patterns(self, tmp_path, tars):
        folder, manifest = tars
        pattern = f"pipe:cat {folder}/{{train-{{000000..000003}},test-000000}}.tar"
        found = import_dataset(in_place(pattern), 0, tmp_path / "out", workers=1)
        assert found.splits["test"] == named(f"pipe:cat {folder}", manifest)["test"]
        assert found.samples("validation") + found.samples("train") == 86

    def test_tars_that_say_nothing_are_dealt(self, tmp_path, tars):
        folder, _ = tars
        silent(folder)
        found = import_dataset(in_place(folder / "{000..005}.tar"), 0, tmp_path / "out")
        assert [len(found.splits[split]) for split in ("train", "validation", "test")] == [4, 1, 1]
        assert import_dataset(in_place(folder), 0, tmp_path / "again") == found

    def test_too_few_tars_to_deal(self, tmp_path, tars):
        folder, _ = tars
        refused(in_place(folder / "train-000000.tar"), tmp_path / "out", "data.test", "1 training tar is too few")
        refused(in_place(folder, test=0, options={"train": "train-000000.tar"}), tmp_path / "out", "data.test")
        options = {"train": "train-000000.tar", "test": "test-000000.tar"}
        refused(in_place(folder, options=options), tmp_path / "out", "data.validation", "data.validation to 0")

    def test_names_that_say_a_split_beside_some_that_do_not(self, tmp_path, tars):
        folder, _ = tars
        (folder / "train-000000.tar").rename(folder / "foo.tar")
        refused(in_place(folder), tmp_path / "out", "foo.tar", "no split")

    @pytest.mark.parametrize("cut", ["in a member", "at a header", "between"])
    def test_truncated(self, tmp_path, tars, cut):
        folder, _ = tars
        file = folder / "train-000000.tar"
        with tarfile.open(file) as tar:
            member = tar.getmembers()[6]
        end = {"in a member": member.offset_data + 5, "at a header": member.offset + 100, "between": member.offset}
        file.write_bytes(file.read_bytes()[: end[cut]])
        refused(in_place(folder), tmp_path / "out", "train-000000.tar", "truncated")

    def test_damaged_header(self, tmp_path, tars):
        folder, _ = tars
        file = folder / "train-000000.tar"
        with tarfile.open(file) as tar:
            offset = tar.getmembers()[6].offset
        raw = bytearray(file.read_bytes())
        raw[offset] ^= 1
        file.write_bytes(raw)
        refused(in_place(folder), tmp_path / "out", "train-000000.tar", "truncated or damaged")

    def test_label_outside_the_classes(self, tmp_path, tars):
        data = in_place(tars[0], options={"classes": ["a", "b", "c"]})
        refused(data, tmp_path / "out", ".tar: sample-", "label 3", "0 to 2")

    def test_class_that_is_nowhere(self, tmp_path, tars):
        refused(in_place(tars[0], options={"classes": list("abcde")}), tmp_path / "out", "the class e", "training tars")

    def test_one_class(self, tmp_path):
        for split in ("train", "test"):
            array_tar(tmp_path / "in", f"{split}-0.tar", np.zeros((4, 3), np.float32), [0] * 4)
        refused(in_place(tmp_path / "in", validation=0), tmp_path / "out", "one class only")

    def test_arrays_and_nan(self, tmp_path):
        x = RNG.normal(size=(8, 3)).astype(np.float32)
        array_tar(tmp_path / "in", "train-0.tar", x[:4], [0, 1, 0, 1])
        array_tar(tmp_path / "in", "test-0.tar", x[4:], [0, 1, 0, 1])
        found = import_dataset(in_place(tmp_path / "in", validation=0), 0, tmp_path / "out")
        assert (found.sample.kind, found.sample.shape) == ("array", (3,))
        assert found.mean == pytest.approx([x[:4].mean()], rel=1e-6)
        x[6, 1] = np.nan
        array_tar(tmp_path / "in", "test-0.tar", x[4:], [0, 1, 0, 1])
        refused(in_place(tmp_path / "in", validation=0), tmp_path / "none", "test-0.tar: test-0_tar2", "NaN")

    def test_a_key_in_two_tars(self, tmp_path, tars):
        folder, _ = tars
        shutil.copy(folder / "train-000000.tar", folder / "train-000009.tar")
        refused(in_place(folder), tmp_path / "out", "train-000009.tar: repeats a key of", "train-000000.tar")

    def test_image_that_does_not_decode_or_fit(self, tmp_path, tars):
        folder, _ = tars
        shards.write(folder, "train-000000.tar", [shards.Encoded("k", "png", b"hello", 0)])
        refused(in_place(folder, validation=0), tmp_path / "out", "train-000000.tar: k", "image")
        image = tmp_path / "x.png"
        Image.new("L", (3, 3)).save(image)
        shards.write(folder, "train-000001.tar", [shards.Encoded("k", "png", image.read_bytes(), 0)])
        (folder / "train-000000.tar").unlink()
        refused(in_place(folder), tmp_path / "out", ": ", "pixels where")

    def test_no_label(self, tmp_path):
        (tmp_path / "in").mkdir()
        with tarfile.open(tmp_path / "in/train-0.tar", "w") as tar:
            image = tmp_path / "x.png"
            Image.new("L", (3, 3)).save(image)
            tar.add(image, "k.png")
        refused(in_place(tmp_path / "in"), tmp_path / "out", "train-0.tar: k", "no .cls member")

    def test_nothing_there(self, tmp_path, tars):
        (tmp_path / "empty").mkdir()
        refused(in_place(tmp_path / "empty"), tmp_path / "out", "no .tar files")
        refused(in_place(tmp_path / "no-{0..3}.tar"), tmp_path / "out", "no-0.tar does not exist")
        refused(in_place(tmp_path / "no-{0..3.tar"), tmp_path / "out", "brace")
        refused(in_place(None), tmp_path / "out", "data.path")
        refused(in_place("foo://bar/train.tar"), tmp_path / "out", "foo://bar/train.tar", "cannot open it")
        twice = {"train": "train-000000.tar", "test": "train-000000.tar"}
        refused(in_place(tars[0], options=twice), tmp_path / "out", "train-000000.tar: named twice")
        refused(in_place(tars[0], options={"trian": "x"}), tmp_path / "out", "data.options.trian")
        with tarfile.open(tmp_path / "empty/train-0.tar", "w"):
            pass
        refused(in_place(tmp_path / "empty"), tmp_path / "out", "train-0.tar", "no samples")

    def test_resizing(self, tmp_path, tars):
        refused(in_place(tars[0], image_size=8), tmp_path / "out", "data.image_size")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def array_tar(folder: Path, name: str, x: np.ndarray, y: list[int]) -> None:
    def payload(array: np.ndarray) -> bytes:
        np.save(folder / "x.npy", array)
        return (folder / "x.npy").read_bytes()

    folder.mkdir(exist_ok=True)
    shards.write(
        folder,
        name,
        (
            shards.Encoded(f"{name.replace('.', '_')}{row}", "npy", payload(array), y[row])
            for row, array in enumerate(x)
        ),
    )
    (folder / "x.npy").unlink()

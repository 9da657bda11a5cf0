"""Places: what a store needs of a folder or an object store."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdscale.errors import RunFailure, UserError
from kdscale.logits import places
from kdscale.logits.places import Folder, Place, exists, open_place


def test_files_are_written_read_listed_and_deleted(where: str) -> None:
    place = open_place(where)
    place.write("a/one", [b"12", b"3"])
    place.write("a/b/two", [b""])
    place.write("c/three", [b"x"])
    place.write("a/one", [b"1234"])
    assert bytes(place.read("a/one")) == b"1234"
    assert bytes(place.read("a/b/two")) == b""
    assert sorted(place.list("a")) == [("a/b/two", 0), ("a/one", 4)]
    assert list(place.list("nothing")) == []
    place.delete("a/one")
    place.delete("a/one")
    with pytest.raises(FileNotFoundError):
        place.read("a/one")
    assert exists(where, "c/three")
    assert not exists(where, "a/one")


def test_a_file_is_created_once(where: str) -> None:
    place = open_place(where)
    assert place.create("x/y", [b"first"])
    assert not place.create("x/y", [b"second"])
    assert bytes(place.read("x/y")) == b"first"
    assert [path for path, _ in place.list("x")] == ["x/y"]


def test_places_travel_to_other_processes(where: str) -> None:
    open_place(where).write("a", [b"1"])
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        assert other.submit(read_there, open_place(where)).result() == b"1"


def read_there(place: Place) -> bytes:
    return bytes(place.read("a"))


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".tmp-x").write_bytes(b"1")
    assert list(Folder(tmp_path).list("a")) == []


def test_a_full_disk_holds_writers_back_and_then_says_so(tmp_path: Path, monkeypatch) -> None:
    free = iter([0, 0, 10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free), total=1))
    monkeypatch.setattr(places.time, "sleep", lambda seconds: None)
    place = Folder(tmp_path)
    large = [b"1" * places.SMALL]
    place.write("a", large)  # room came while it waited
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0, total=1))
    monkeypatch.setattr(places, "PATIENCE", 0.0)
    with pytest.raises(RunFailure, match=r"the disk is full .* make room and give the same command again"):
        place.create("b", large)
    place.create("small", [b"1"])  # as a commit record is
    assert sorted(path for path, _ in place.list("")) == ["a", "small"]


def test_mistakes_in_a_url_are_sentences(monkeypatch, s3) -> None:
    with pytest.raises(UserError, match="nonsense://x: not an object store that can be opened"):
        open_place("nonsense://x")
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="s3://no-such-bucket: there is no such bucket; create it first"):
        open_place("s3://no-such-bucket").write("a", [b"1"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RunFailure, match="s3://bucket: the object store answers with an error"):
        open_place("s3://bucket").write("a", [b"1"])

"""Two folders of two nodes and a bucket: what one writes the other finds, and nothing comes back that was removed."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3 import s3_server

from kdscale import mirror
from kdscale.errors import UserError
from kdscale.mirror import Mirror


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture
def url(bucket: None, tmp_path: Path) -> str:
    return f"s3://bucket/{tmp_path.name}"  # moto keeps its buckets as long as the process lives


@pytest.fixture
def nodes(url: str, tmp_path: Path) -> tuple[Mirror, Mirror]:
    return Mirror(url, tmp_path / "a"), Mirror(url, tmp_path / "b")


def files(node: Mirror) -> dict[str, str]:
    every = (path for path in node.folder.rglob("*") if path.is_file() and mirror.STATE not in path.parts)
    return {str(path.relative_to(node.folder)): path.read_text() for path in every}


def put(node: Mirror, path: str, text: str) -> None:
    (node.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (node.folder / path).write_text(text)


def test_what_one_node_writes_the_other_finds(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    put(a, "teachers/seed-0/weights", "w")
    put(a, "recipe.yaml", "r")
    a.sync()
    b.sync()
    assert files(b) == {"teachers/seed-0/weights": "w", "recipe.yaml": "r"}
    put(b, "recipe.yaml", "longer")
    b.sync()
    a.sync()
    assert files(a)["recipe.yaml"] == "longer"


def test_what_is_removed_stays_away_and_leaves_no_empty_folder(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    put(a, "checkpoints/1/state", "x")
    put(a, "kept", "x")
    a.sync()
    b.sync()
    (a.folder / "checkpoints" / "1" / "state").unlink()
    a.sync()
    b.sync()
    assert list(files(b)) == ["kept"]
    assert not (b.folder / "checkpoints").exists()
    a.sync()
    assert list(files(a)) == ["kept"]


def test_what_a_cleaner_of_tmp_removes_is_fetched_again(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    put(a, "results.json", "r")
    a.sync()
    (a.folder / "results.json").unlink()
    Mirror(a.url, a.folder).sync()  # a later command
    b.sync()
    assert files(a) == files(b) == {"results.json": "r"}


def test_of_two_changes_the_later_counts(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    put(a, "status", "old")
    a.sync()
    b.sync()
    put(a, "status", "from a")
    a.sync()
    put(b, "status", "from b, later")
    os.utime(b.folder / "status", (time.time() + 60, time.time() + 60))
    b.sync()
    a.sync()
    assert files(a) == files(b) == {"status": "from b, later"}
    put(b, "status", "early")
    os.utime(b.folder / "status", (1.0, 1.0))
    put(a, "status", "the later")
    a.sync()
    b.sync()
    assert files(b) == {"status": "the later"}


def test_a_change_outlives_a_removal_elsewhere(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    put(a, "metrics.jsonl", "1")
    a.sync()
    b.sync()
    (a.folder / "metrics.jsonl").unlink()
    a.sync()
    put(b, "metrics.jsonl", "1 2")
    b.sync()
    a.sync()
    assert files(a) == files(b) == {"metrics.jsonl": "1 2"}


def test_locks_caches_links_and_unfinished_files_stay_at_home(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    for name in (".driver.lock", "teachers/.lock", "data/.decoded/0", ".tmp-weights-1"):
        put(a, name, "x")
    put(a, "data/manifest.json", "m")
    (a.folder / "link").symlink_to("data")
    a.sync()
    b.sync()
    assert files(b) == {"data/manifest.json": "m"}


def test_files_travel_while_work_goes_on(nodes: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EVERY", 0.1)
    a, b = nodes
    with a.kept(), b.kept():
        put(a, ".stop", "")
        deadline = time.monotonic() + 20
        while ".stop" not in files(b):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        put(b, "saved", "s")
    a.sync()
    assert files(a) == {".stop": "", "saved": "s"}


def test_processes_of_a_node_share_its_folder(nodes: tuple[Mirror, Mirror], tmp_path: Path) -> None:
    a, b = nodes
    for number in range(20):
        put(a, f"{number}", str(number))
    several = [Mirror(a.url, tmp_path / "a") for _ in range(4)]
    threads = [threading.Thread(target=one.sync) for one in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    b.sync()
    assert files(b) == {str(number): str(number) for number in range(20)}


def test_work_is_carried_only_for_a_run_in_a_bucket(nodes: tuple[Mirror, Mirror]) -> None:
    a, b = nodes
    assert mirror.carried(len, ("xyz",)) == (len, ("xyz",))
    put(a, "x", "1")
    with mirror.active(a) as folder:
        function, arguments = mirror.carried(os.listdir, (str(b.folder),))
        assert folder == a.folder
        assert (function, arguments[:2]) == (mirror.in_folder, (a.url, a.folder))
        assert "x" in mirror.in_folder(b.url, b.folder, os.listdir, (str(b.folder),))
    assert mirror.carried(len, ("xyz",)) == (len, ("xyz",))


@pytest.mark.parametrize(
    ("run", "expected"),
    [("s3://b/r", True), (Path("s3://b/r"), True), ("gs://b/r", True), ("/runs/r", False), ("runs/s3", False)],
)
def test_urls_are_told_from_folders(run: str | Path, expected: bool) -> None:
    assert mirror.is_url(run) is expected


def test_a_path_that_was_a_url_is_one_again(bucket: None) -> None:
    assert Mirror(str(Path("s3://bucket/runs/one"))).url == "s3://bucket/runs/one"


def test_a_bucket_that_is_not_there_is_a_sentence(bucket: None, tmp_path: Path) -> None:
    put(other := Mirror("s3://nobody/run", tmp_path / "c"), "x", "1")
    with pytest.raises(UserError, match="there is no such bucket"):
        other.sync()

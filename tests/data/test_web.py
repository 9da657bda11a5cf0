"""Shards over HTTP: a lane's windows are ranges of bytes, and a resume re-reads no more than one window a lane."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_dataset
from support.web import Served, served

from kdscale import recipe
from kdscale.data import decoded, ranges
from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.importing import import_dataset
from kdscale.data.order import Order
from kdscale.errors import UserError

CPU = torch.device("cpu")
LANES, PER_LANE, WINDOW = 4, 2, 7
SIZES = (60, 45, 51)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "shards", SIZES)
    (tmp_path / "shards" / "manifest.json").unlink()
    return tmp_path / "shards"


def imported(there: Served, out: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The dataset, as one that does not fit in memory."""
    monkeypatch.setattr(decoded, "MOST", 0)
    monkeypatch.setattr(ranges.time, "sleep", lambda seconds: None)
    names = {"train": f"{there.url}/train-{{000000..000002}}.tar", "test": f"{there.url}/test-000000.tar"}
    import_dataset(recipe.Data(source="shards", options=names, validation=0), 0, out, workers=1)
    there.bytes = 0
    there.requests.clear()
    return Dataset(out, "train")


def batches_of(dataset: Dataset, lanes: range = range(LANES)) -> Batches:
    order = Order(dataset.sizes, 5, LANES * PER_LANE, LANES, WINDOW)
    pixels = Pixels(dataset.manifest, True, recipe.ViewSpec(), 9, CPU)
    return Batches(dataset, order, pixels, lambda epoch: epoch, lanes)


def test_batches_over_http_are_those_of_the_disk(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(shards) as there:
        web = batches_of(imported(there, tmp_path / "web", monkeypatch))
        there_too = web.dataset.manifest
        splits = {
            split: [shard.model_copy(update={"name": shard.name.rpartition("/")[2]}) for shard in group]
            for split, group in there_too.splits.items()
        }
        local = Dataset(shards, "train", there_too.model_copy(update={"splits": splits}))
        disk = batches_of(local)
        for step in range(45):
            assert torch.equal(web(step).x, disk(step).x)
            assert torch.equal(web(step).y, disk(step).y)
        assert all("bytes=" in request for request in there.requests)


@pytest.mark.parametrize("step", [0, 3, 17, 30])
def test_a_resume_reads_its_windows_and_nothing_else(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with served(shards) as there:
        web = batches_of(imported(there, tmp_path / "web", monkeypatch))
        monkeypatch.setattr(web, "_read_ahead", lambda lane, start: None)
        web(step)
        index = web.dataset._index(0)
        assert index is not None
        sample = int(np.diff(index[0].starts).max())
        places = [
            (lane, *web.order.locate(lane, step * PER_LANE + i)[:2]) for lane in range(LANES) for i in range(PER_LANE)
        ]
        assert len(set(places)) <= 2 * LANES
        assert 0 < there.bytes <= sample * WINDOW * len(set(places))
        assert there.bytes < 0.6 * sum(shard.bytes for shard in web.dataset.shards)


def test_an_undisturbed_reader_fetches_each_sample_once_an_epoch(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(shards) as there:
        web = batches_of(imported(there, tmp_path / "web", monkeypatch))
        rows = []
        plain = web.dataset.stretch

        def counting(number: int, first: int, last: int):
            rows.extend((number, row) for row in range(first, last))
            return plain(number, first, last)

        monkeypatch.setattr(web.dataset, "stretch", counting)
        steps = sum(SIZES) // (LANES * PER_LANE)
        for step in range(steps):
            web(step)
        web._reader.shutdown()
        often = Counter(rows)
        assert len(often) == sum(SIZES)
        ahead = LANES * (WINDOW + 1)  # the next epoch's first windows are on their way
        assert len(rows) <= sum(SIZES) + ahead


def test_a_server_without_ranges_or_out_of_breath_serves_as_well(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(shards, ranges=False) as there:
        web = batches_of(imported(there, tmp_path / "web", monkeypatch))
        there.fail = 2
        first = web(4).x
    with served(shards) as there:
        assert torch.equal(batches_of(imported(there, tmp_path / "again", monkeypatch))(4).x, first)


def test_what_was_changed_or_went_away_is_named(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(shards) as there:
        dataset = imported(there, tmp_path / "web", monkeypatch)
        assert dataset.stretch(0, 10, 20)[0].x.shape[0] == 10
        path = shards / "train-000000.tar"
        whole = path.read_bytes()
        at = dataset._index(0)[0].starts[12] + 520
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"train-000000\.tar: changed since it was imported"):
            dataset.stretch(0, 10, 20)
        dataset.stretch(0, 20, 30)  # what is as it was is read
        path.write_bytes(whole[: dataset._index(0)[0].starts[15]])
        with pytest.raises(UserError, match=r"train-000000\.tar: the tar is truncated"):
            dataset.stretch(0, 10, 20)
        path.unlink()
        with pytest.raises(UserError, match=r"train-000000\.tar: cannot be fetched \(HTTP Error 404"):
            dataset.stretch(0, 10, 20)


def test_single_samples_and_labels_are_read_without_their_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(shards) as there:
        dataset = imported(there, tmp_path / "web", monkeypatch)
        whole = Dataset(dataset.folder, "train").decoded(1)
        there.bytes = 0
        assert np.array_equal(dataset.labels(1), whole.y)
        assert len(dataset.all_labels()) == sum(SIZES)
        assert there.bytes == 0
        for taken in ([44], [7, 2, 30, 31, 33, 2], list(range(45))):
            part = dataset.rows(1, np.array(taken))
            assert np.array_equal(part.x, whole.x[taken])
            assert np.array_equal(part.y, whole.y[taken])
            assert np.array_equal(part.ids, whole.ids[taken])
            assert part.keys == [whole.keys[row] for row in taken]
        there.bytes = 0
        index = dataset._index(1)
        assert index is not None
        dataset.rows(1, np.array([0, 40]))
        assert 0 < there.bytes <= 2 * int(np.diff(index[0].starts).max())

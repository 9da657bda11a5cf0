"""Batches: the order's samples as tensors, joined by key."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.data.batches import Batch, Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.errors import UserError
from kdscale.recipe import ViewSpec

CPU = torch.device("cpu")
PLAIN = ViewSpec()


def batches_of(
    folder: Path, lanes: range, spec: ViewSpec = PLAIN, join=None, window: int = 7, view=lambda e: 0
) -> Batches:
    dataset = Dataset(folder, "train")
    order = Order(dataset.sizes, 5, 8, 4, window)
    return Batches(dataset, order, Pixels(dataset.manifest, True, spec, 9, CPU), view, lanes, join)


def test_samples_are_the_orders_normalised(dataset_folder: Path) -> None:
    batches = batches_of(dataset_folder, range(4))
    dataset = batches.dataset
    for step in (0, 1, 9, 3):
        rows, batch = batches.order.batch(step), batches(step)
        for i, (shard, row) in enumerate(zip(rows.shard, rows.row, strict=True)):
            decoded = dataset.decoded(int(shard))
            assert batch.y[i] == decoded.y[row]
            expected = (decoded.x[row].astype(np.float32) / 255 - 0.3) / 0.2
            assert torch.allclose(batch.x[i], torch.from_numpy(expected), atol=1e-5)


def bytes_of(batches: list[Batch]) -> list[bytes]:
    """Of the samples, labels and targets of a global batch, put together from those of ranks."""
    columns = [[batch.x, batch.y, *batch.targets.values()] for batch in batches]
    return [torch.cat(parts).numpy().tobytes() for parts in zip(*columns, strict=True)]


def test_ranks_share_the_global_batch_and_their_number_may_change_at_any_step(dataset_folder: Path) -> None:
    def join(number: int, decoded, view: int, epoch: int) -> dict[str, torch.Tensor]:
        return {"named": torch.from_numpy(decoded.ids.astype(np.int64) + view)[:, None]}

    def ranks(world: int) -> list[Batches]:
        own = 4 // world
        lanes = [range(rank * own, (rank + 1) * own) for rank in range(world)]
        return [batches_of(dataset_folder, some, ViewSpec(jitter=1), join, view=lambda e: e) for some in lanes]

    (alone,), worlds = ranks(1), {world: ranks(world) for world in (2, 4)}
    expected = [bytes_of([alone(step)]) for step in range(15)]
    for group in worlds.values():
        assert [bytes_of([rank(step) for rank in group]) for step in range(15)] == expected
    for stop in (4, 11):  # within the first epoch and after it: two ranks until then, and four or one from there
        for group in (ranks(4), ranks(1)):
            assert [bytes_of([rank(step) for rank in group]) for step in range(stop, 15)] == expected[stop:]


def test_a_resumed_reader_sees_the_same_batches(dataset_folder: Path) -> None:
    spec = ViewSpec(jitter=1)
    straight = batches_of(dataset_folder, range(4), spec, view=lambda e: e + 1)
    seen = [straight(step) for step in range(25)]
    resumed = batches_of(dataset_folder, range(4), spec, view=lambda e: e + 1)
    for step in range(17, 25):
        assert torch.equal(resumed(step).x, seen[step].x)


def test_joined_rows_belong_to_their_samples(dataset_folder: Path) -> None:
    def join(number: int, decoded, view: int, epoch: int) -> dict[str, torch.Tensor]:
        named = torch.from_numpy(decoded.ids.astype(np.int64) % 1000 + 1000 * view)[:, None]
        return {"named": named.repeat(1, number + 1)}  # shards differ in how wide their rows are

    batches = batches_of(dataset_folder, range(4), join=join, view=lambda e: e)
    for step in (0, 8, 9, 10, 19):
        rows, batch = batches.order.batch(step), batches(step)
        for i in range(8):
            key = batches.dataset.decoded(int(rows.shard[i])).ids[rows.row[i]]
            wide = batch.targets["named"][i].tolist()
            assert wide[1:] == [wide[0]] * int(rows.shard[i]) + [0] * (len(wide) - 1 - int(rows.shard[i]))
            assert wide[0] == int(key.astype(np.int64) % 1000 + 1000 * rows.epoch[i])


def test_a_small_cache_gives_the_same_batches(dataset_folder: Path) -> None:
    plenty = batches_of(dataset_folder, range(4))
    scarce = batches_of(dataset_folder, range(4))
    scarce.dataset = Dataset(dataset_folder, "train", cache_bytes=1)
    for step in range(15):
        assert torch.equal(plenty(step).x, scarce(step).x)
    assert len(scarce.dataset._cache) == 1


def test_micro_batches_are_equal_parts() -> None:
    batch = Batch(torch.arange(8.0)[:, None], torch.arange(8), {"p": torch.arange(8)[:, None]})
    parts = batch.split(4)
    assert [part.y.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert parts[3].targets["p"].flatten().tolist() == [6, 7]
    assert Batch(batch.x, batch.y).split(2)[1].targets == {}


def test_a_missing_split_is_named(dataset_folder: Path) -> None:
    with pytest.raises(UserError, match="no validation split"):
        Dataset(dataset_folder, "validation")

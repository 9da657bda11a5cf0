"""Subsets: an exact share, by seed; classes by name; and batches that read nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.data.subset import select
from kdscale.errors import UserError
from kdscale.recipe import ViewSpec


@pytest.fixture
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset(dataset_folder, "train")


def test_everything_is_no_subset(dataset: Dataset) -> None:
    assert select(dataset, 1.0, None, 0) is None


def test_a_share_is_exact_and_follows_the_seed(dataset: Dataset) -> None:
    def chosen(seed: int) -> list[tuple[int, int]]:
        part = select(dataset, 0.4, None, seed)
        assert part is not None
        assert sum(part.sizes) == round(0.4 * 75)
        return [(shard, int(row)) for shard, rows in enumerate(part.rows) for row in rows]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert len(set(chosen(1))) == 30


def test_classes_are_those_that_are_named(dataset: Dataset) -> None:
    part = select(dataset, 1.0, ["0", "2"], 0)
    assert part is not None
    for number, rows in enumerate(part.rows):
        y = dataset.decoded(number).y
        assert rows.tolist() == np.flatnonzero(y != 1).tolist()


def test_a_share_of_some_classes_is_of_what_they_leave(dataset: Dataset) -> None:
    whole, half = select(dataset, 1.0, ["1"], 0), select(dataset, 0.5, ["1"], 0)
    assert whole is not None
    assert half is not None
    assert sum(half.sizes) == round(0.5 * sum(whole.sizes))
    assert all(set(few.tolist()) <= set(all_.tolist()) for few, all_ in zip(half.rows, whole.rows, strict=True))


def test_unknown_classes_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="there is no class 7; there are 0, 1, 2"):
        select(dataset, 1.0, ["7"], 0)


@pytest.mark.parametrize("window", [5, 1000])
def test_an_epoch_of_batches_is_the_subset_once(dataset: Dataset, window: int) -> None:
    part = select(dataset, 0.64, ["0", "1"], 3)
    assert part is not None
    n = sum(part.sizes)
    order = Order(part.sizes, 0, 2, 2, window)
    pixels = Pixels(dataset.manifest, False, ViewSpec(), 0, torch.device("cpu"))
    batches = Batches(dataset, order, pixels, lambda epoch: 0, range(2), subset=part)
    seen = np.concatenate([batches.rows(step)[1] for step in range(n // 2 + 1)])[:n]
    wanted = np.concatenate([dataset.decoded(number).ids[rows] for number, rows in enumerate(part.rows)])
    assert sorted(seen[: n - n % 2]) == sorted(set(seen[: n - n % 2]))
    assert set(seen[: n - n % 2]) <= set(wanted.tolist())
    assert {int(y) for step in range(5) for y in batches.rows(step)[2]} <= {0, 1}

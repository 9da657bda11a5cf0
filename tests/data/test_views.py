"""Views are a function of (seed, key, view), whoever asks, wherever the sample stands in a batch."""

import numpy as np
import pytest
import torch

from kdscale.data import views
from kdscale.recipe import ViewSpec
from kdscale.seeds import uniforms

ALL = ViewSpec(jitter=2, flip=True, rotate=10, scale=0.1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 9, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


IDS = np.arange(100, 106, dtype=np.uint64)


def test_view_zero_is_the_plain_sample(images: torch.Tensor) -> None:
    assert torch.equal(views.make(images, ALL, 1, IDS, np.zeros(6, np.int64)), images)
    mixed = views.make(images, ALL, 1, IDS, np.array([0, 1, 0, 1, 0, 1]))
    assert torch.equal(mixed[::2], images[::2])
    assert not torch.equal(mixed[1::2], images[1::2])


def test_pixels_do_not_depend_on_the_batch(images: torch.Tensor) -> None:
    number = np.array([1, 2, 3, 4, 5, 6])
    whole = views.make(images, ALL, 7, IDS, number)
    order = np.array([3, 0, 5])
    part = views.make(images[order], ALL, 7, IDS[order], number[order])
    assert torch.equal(part, whole[order])


def test_seeds_keys_and_views_give_other_draws() -> None:
    ones = np.ones(4, np.int64)
    base = uniforms(1, IDS[:4], ones, 3)
    assert base.shape == (4, 3)
    for other in (
        uniforms(2, IDS[:4], ones, 3),
        uniforms(1, IDS[1:5], ones, 3),
        uniforms(1, IDS[:4], ones + 1, 3),
    ):
        assert (base != other).all()
    assert len(np.unique(base)) == 12


def test_draws_are_uniform() -> None:
    draws = uniforms(3, np.arange(20000, dtype=np.uint64), np.ones(20000, np.int64), 2)
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 50  # chi-squared, 19 degrees of freedom
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03


def test_jitter_shifts_by_whole_pixels_and_zeros_come_in() -> None:
    image = torch.zeros(200, 1, 7, 7)
    image[:, 0, 3, 3] = 1
    moved = views.make(image, ViewSpec(jitter=2), 0, np.arange(200, dtype=np.uint64), np.ones(200, np.int64))
    assert (moved.flatten(1).sum(1) == 1).all()
    places = moved.flatten(1).argmax(1)
    offsets = {(int(p) // 7 - 3, int(p) % 7 - 3) for p in places}
    assert offsets == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    corner = torch.ones(50, 1, 5, 5)
    assert (
        views.make(corner, ViewSpec(jitter=1), 0, np.arange(50, dtype=np.uint64), np.ones(50, np.int64))
        .flatten(1)
        .sum(1)
        < 25
    ).any()


def test_flip_mirrors_about_half(images: torch.Tensor) -> None:
    many = images[:1].repeat(400, 1, 1, 1)
    seen = views.make(many, ViewSpec(flip=True), 0, np.arange(400, dtype=np.uint64), np.ones(400, np.int64))
    mirrored = (seen == images[:1].flip(-1)).flatten(1).all(1)
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(seen[~mirrored], many[~mirrored])


def test_turning_by_nothing_changes_nothing(images: torch.Tensor) -> None:
    turned = views._turn(images, np.zeros(6), np.ones(6))
    assert (turned.int() - images.int()).abs().max() <= 1

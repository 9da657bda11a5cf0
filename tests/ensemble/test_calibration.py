"""The choice between members alone and in packs."""

from pathlib import Path

import pytest

from kdscale.ensemble.calibration import best, measure, sizes
from kdscale.recipe import Recipe


def test_sizes_halve_down_to_one() -> None:
    assert sizes(1) == [1]
    assert sizes(5) == [1, 2, 3, 5]
    assert sizes(1000) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("seconds", "members", "places", "size"),
    [
        ({1: 1.0, 5: 1.0}, 10, 2, 5),  # four members for nothing
        ({1: 1.0, 5: 4.9}, 10, 2, 1),  # noise
        ({1: 1.0, 2: 2.5, 5: 6.0}, 10, 2, 1),
        ({1: 1.0, 2: 1.2, 3: 2.9}, 5, 2, 2),  # three rounds of 1.2, or the third member for 1.7 more
        ({1: 1.0, 2: 1.0}, 2, 2, 1),  # each has a place
        ({1: 1.0}, 10, 2, 1),
    ],
)
def test_the_size_that_is_through_first_is_taken(
    seconds: dict[int, float], members: int, places: int, size: int
) -> None:
    assert best(seconds, members, places) == size


def test_sizes_are_measured_with_the_recipes_own_model(dataset_folder: Path) -> None:
    recipe = Recipe(
        name="r",
        teachers={"model": {"name": "mlp", "hidden": [8], "dropout": 0.5}, "views": {"jitter": 1}, "batch_size": 16},
        student={"model": "mlp"},
    )
    seconds = measure(recipe, dataset_folder, [1, 2, 4], 0.0)
    assert list(seconds) == [1, 2, 4]
    assert all(0 < value < 60 for value in seconds.values())

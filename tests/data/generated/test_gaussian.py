"""Gaussian inputs: every target makes all classes, the same of the same input."""

import numpy as np
import pytest

from kdscale.data.generated.gaussian import TARGETS, load, values
from kdscale.errors import UserError


@pytest.mark.parametrize("target", TARGETS)
def test_all_classes_are_there_and_labels_follow_the_function(target: str) -> None:
    made = load(target=target, k=4, dimension=10, train=1000, test=500)
    assert np.bincount(made["y_train"], minlength=4).min() > 100
    assert abs(made["x_train"].std() - 1) < 0.05
    again = load(target=target, k=4, dimension=10, train=1000, test=500)
    np.testing.assert_array_equal(made["y_test"], again["y_test"])
    assert not np.array_equal(made["x_train"][:500], made["x_test"])


def test_both_splits_have_their_labels_from_one_function() -> None:
    few, many = (load(target="cosine", dimension=10, train=100, test=test) for test in (20, 2000))
    np.testing.assert_array_equal(few["x_test"], many["x_test"][:20])
    np.testing.assert_array_equal(few["y_test"], many["y_test"][:20])


def test_a_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"Gaussian inputs are drawn, nothing is read from mine.npz; leave it out"):
        load("mine.npz")


def test_a_linear_target_is_linear() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6))
    np.testing.assert_allclose(values(2 * x, "linear", 3, 0), 2 * values(x, "linear", 3, 0))


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UserError, match="no target cubic; take one of linear"):
        load(target="cubic")  # type: ignore[arg-type]

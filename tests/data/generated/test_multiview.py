"""Multi-view data: orthonormal features, in patches, all of a class's or one of them."""

import numpy as np
import pytest

from kdscale.data.generated.multiview import features, load
from kdscale.errors import UserError


def strengths(x: np.ndarray, k: int) -> np.ndarray:
    """(N, classes, views), the sum of every feature over the patches."""
    return np.einsum("npd,cvd->ncv", x, features(k, 2, x.shape[2]))


def test_features_are_orthonormal_and_the_same_every_time() -> None:
    basis = features(4, 2, 30).reshape(8, 30)
    np.testing.assert_allclose(basis @ basis.T, np.eye(8), atol=1e-12)
    np.testing.assert_array_equal(basis, features(4, 2, 30).reshape(8, 30))
    with pytest.raises(UserError, match="raise dimension"):
        features(20, 2, 30)


def test_multi_view_samples_show_all_views_and_single_view_ones_one() -> None:
    made = load(k=4, dimension=50, train=400, multi=300, single_views=300, single=0.25, noise=0.0)
    own = {
        split: strengths(made[f"x_{split}"], 4)[np.arange(len(made[f"y_{split}"])), made[f"y_{split}"]]
        for split in ("train", "validation", "test")
    }
    assert (own["validation"] > 0.99).all()
    assert ((own["test"] > 0.99).sum(1) == 1).all()
    np.testing.assert_allclose(own["test"].min(1), 0.05, atol=1e-5)
    lone = (own["train"] < 0.5).any(1).mean()
    assert 0.15 < lone < 0.35
    others = strengths(made["x_validation"], 4)
    others[np.arange(300), made["y_validation"]] = 0
    assert others.max() < 0.4001
    assert 0.5 < (others > 0.1).sum((1, 2)).mean() < 2  # of 1.5 in all, those of the other classes


def test_each_view_of_the_class_has_a_patch_of_its_own() -> None:
    made = load(k=4, dimension=50, patches=6, train=8, multi=50, single_views=8, noise=0.0, crowd=0.0)
    filled = (np.abs(made["x_validation"]).max(2) > 1e-9).sum(1)
    assert set(filled.tolist()) == {2}
    with pytest.raises(UserError, match="take more"):
        load(patches=2)
    assert made["x_train"].dtype == np.float32

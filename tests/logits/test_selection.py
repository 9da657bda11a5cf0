"""Selection: the k largest of a row, whatever the row, in one order that depends on nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdscale.logits.selection import largest
from kdscale.logits.topk import TopK


def by_sorting(z: np.ndarray, k: int) -> np.ndarray:
    """Class numbers by a stable sort of whole rows: larger values first, of equal ones the lower class."""
    return np.argsort(-z, axis=1, kind="stable")[:, :k]


def agrees(z: np.ndarray, k: int) -> None:
    values, ids = largest(z, k)
    expected = by_sorting(z, k)
    assert (ids == expected).all()
    assert (values == np.take_along_axis(z, expected, 1)).all()


elements = st.one_of(
    st.floats(-60000, 60000, width=32),
    st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 3.0, np.inf]).map(np.float32),
    st.floats(-(2.0**-100), 2.0**-100, width=32),
)
shapes = st.tuples(st.integers(1, 5), st.integers(2, 80))


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(np.float32, shapes, elements=elements, fill=elements), st.data())
def test_any_row_and_any_k_gives_what_a_stable_sort_gives(z: np.ndarray, data: st.DataObject) -> None:
    agrees(z, data.draw(st.integers(1, z.shape[1])))


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(st.integers(2, 3000), st.integers(3000, 200_000)),
    st.integers(1, 300),
    st.integers(1, 40),
    st.sampled_from(["smooth", "rounded", "two values", "masked", "ascending"]),
    st.integers(0, 2**32 - 1),
)
def test_any_number_of_classes(classes: int, k: int, rows: int, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = max(1, min(rows, 400_000 // classes))
    z = random.normal(size=(rows, classes)).astype(np.float32) * 3
    if kind == "rounded":
        z = np.round(z)
    elif kind == "two values":
        z = (z > 6).astype(np.float32)
    elif kind == "masked":
        z[random.random(z.shape) < random.choice([0.5, 0.999])] = -np.inf
    elif kind == "ascending":
        z = np.sort(z, 1)
    agrees(z, min(k, classes))


def test_a_row_gives_the_same_whatever_rows_come_with_it() -> None:
    z = np.round(np.random.default_rng(0).normal(size=(1500, 1000)) * 4).astype(np.float32)  # more than a chunk
    together = largest(z, 32)[1]
    for start, stop in ((0, 1), (700, 1100), (1499, 1500)):
        assert (largest(z[start:stop], 32)[1] == together[start:stop]).all()


def test_rows_need_not_lie_side_by_side_in_memory() -> None:
    z = np.random.default_rng(0).normal(size=(400, 50)).astype(np.float32)
    assert (largest(z.T, 7)[1] == by_sorting(z.T, 7)).all()
    assert (largest(z[::3, ::2], 5)[1] == by_sorting(z[::3, ::2], 5)).all()


def test_no_rows_are_no_rows() -> None:
    values, ids = largest(np.empty((0, 1000), np.float32), 32)
    assert values.shape == ids.shape == (0, 32)


@pytest.mark.parametrize("classes", [33, 1000, 15_000])
@pytest.mark.parametrize("spread", [0.0, 3.0, 60.0, 9_000.0])
def test_the_tail_is_the_logsumexp_of_what_was_not_selected(classes: int, spread: float) -> None:
    z = (np.random.default_rng(0).normal(size=(8, classes)) * spread).astype(np.float32)
    z[:, :30] += 200.0  # a head whose exponentials overflow beside the tail's
    temperatures = [1.0, 4.0, 20.0]
    tails = TopK(32, temperatures).encode(z, np.zeros(8))["tails"].flatten().to_numpy().reshape(8, 3)
    rest = np.sort(z.astype(np.float64), 1)[:, ::-1]
    for column, temperature in enumerate(temperatures):
        others = (rest[:, 32:] - rest[:, :1]) / temperature
        most = others.max(1)
        exact = np.log(np.exp(others - most[:, None]).sum(1)) + most
        assert np.allclose(tails[:, column], exact, rtol=3e-7, atol=5e-6)


def test_a_tail_of_masked_classes_has_no_mass() -> None:
    z = np.full((3, 100), -np.inf, np.float32)
    z[:, :4] = [3.0, 2.0, 1.0, 0.0]
    tails = TopK(4, [1.0, 2.0]).encode(z, np.zeros(3))["tails"].flatten().to_numpy()
    assert (tails == -np.inf).all()

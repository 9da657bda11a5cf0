"""Sums over shards are the covariance, and its clusters are the confusions that were planted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscale.errors import UserError
from kdscale.specialists.clusters import confusion_sets
from kdscale.specialists.covariance import Covariance, InOrder, Sketch, gather

GROUPS, SIZE = 6, 8
fast = settings(max_examples=20, deadline=None)


def predictions(rows: int, seed: int, classes: int = 12) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), rows)
    return p.astype(np.float32)


def planted(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions confused within groups, and each class's group; class numbers are shuffled."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(GROUPS), SIZE))
    shown = rng.integers(len(group), size=rows)
    score = rng.normal(0, 1, (rows, len(group))) + 3.0 * (group[shown][:, None] == group)
    score[np.arange(rows), shown] += 2
    p = np.exp(score)
    return (p / p.sum(1, keepdims=True)).astype(np.float32), group


def top(p: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-p, axis=1)[:, :k]
    return ids, np.take_along_axis(p, ids, 1)


@fast
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 999))
def test_shards_add_up_to_numpys_covariance(sizes, seed):
    p = predictions(sum(sizes), seed)
    total = Covariance(12)
    for part in np.split(p, np.cumsum(sizes)[:-1]):
        shard = Covariance(12)
        shard.add(part)
        total.merge(shard)
    assert np.allclose(total.columns(), np.cov(p.T, bias=True), atol=1e-6)


@fast
@given(st.integers(1, 12), st.integers(0, 999))
def test_top_k_rows_count_as_dense_ones_with_zeros(k, seed):
    p = predictions(50, seed)
    ids, kept = top(p, k)
    dense = np.zeros_like(p)
    np.put_along_axis(dense, ids, kept, 1)
    one, other = Covariance(12), Covariance(12)
    one.add(dense)
    other.add_sparse(ids, kept)
    assert np.allclose(one.columns(), other.columns(), atol=1e-6)


@pytest.mark.parametrize("kind", [Covariance, Sketch])
@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_merging_commutes_to_the_bit(kind, seed):
    results = []
    for turned in (False, True):
        parts = [kind(12), kind(12)]
        for number, part in enumerate(parts):
            part.add(predictions(30, seed + number))
        parts = parts[::-1] if turned else parts
        parts[0].merge(parts[1])
        results.append(parts[0].columns())
    assert (results[0] == results[1]).all()


@pytest.mark.parametrize("kind", [Covariance, Sketch])
def test_parts_give_the_same_bits_in_whatever_order_they_come(kind):
    def parts():
        made = [kind(12) for _ in range(4)]
        for seed, one in enumerate(made):
            one.add(predictions(50, seed))
            for array in vars(one).values():
                if isinstance(array, np.ndarray):
                    array.flags.writeable = False  # as Ray hands them over
        return made

    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        sums, given = InOrder(kind(12)), parts()
        for number in order:
            sums.add(number, given[number])
        assert sums.merged == 4
        found.append(sums.whole.columns())
    assert np.array_equal(*found)


def test_sketch_keeps_distances_between_columns():
    rng = np.random.default_rng(0)
    p = (rng.dirichlet(np.ones(8), 3000) @ rng.dirichlet(np.full(200, 0.1), 8)).astype(np.float32)  # rank 7
    whole, sketch, rows = Covariance(200), Sketch(200, rank=10), top(p, 200)
    whole.add(p)
    sketch.add_sparse(*rows)

    def distances(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=2)

    exact = distances(whole.columns())
    assert sketch.columns().shape == (200, 10)
    assert np.abs(distances(sketch.columns()) - exact).max() < 0.01 * exact.max()
    assert isinstance(gather(15_000, memory=1 << 30, rank=8), Sketch)
    assert isinstance(gather(1_000), Covariance)


def test_sketches_of_different_seeds_are_not_merged():
    with pytest.raises(UserError, match="seeds"):
        Sketch(12, 4, 0).merge(Sketch(12, 4, 1))


@pytest.mark.parametrize("kind", [Covariance, lambda classes: Sketch(classes, rank=12)])
@pytest.mark.parametrize("overlap", ["none", "nearest"])
@pytest.mark.parametrize("sparse", [False, True])
def test_planted_groups_are_found(kind, overlap, sparse):
    p, group = planted(6000)
    gathered = kind(GROUPS * SIZE)
    if sparse:
        gathered.add_sparse(*top(p, 10))
    else:
        gathered.add(p)
    sets = confusion_sets(gathered.columns(), GROUPS, SIZE, overlap, seed=1)
    assert sorted(sets) == sorted(np.flatnonzero(group == number).tolist() for number in range(GROUPS))
    assert sets == confusion_sets(gathered.columns(), GROUPS, SIZE, overlap, seed=1)


def test_sets_overlap_only_where_that_is_asked_for():
    columns = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    apart = confusion_sets(columns, 4, 10, "none")
    assert sorted(number for one in apart for number in one) == list(range(40))
    wide = confusion_sets(columns, 4, 20, "nearest")
    assert [len(one) for one in wide] == [20] * 4
    assert len({number for one in wide for number in one}) < 80
    with pytest.raises(UserError, match="need 80 classes"):
        confusion_sets(columns, 4, 20, "none")


@pytest.mark.parametrize(("count", "size", "overlap"), [(0, 2, "none"), (41, 2, "none"), (2, 40, "none"), (2, 2, "x")])
def test_refuses(count, size, overlap):
    with pytest.raises(UserError, match="specialists"):
        confusion_sets(np.zeros((40, 5), np.float32), count, size, overlap)


def test_refuses_other_predictions():
    with pytest.raises(UserError, match="shape"):
        Covariance(5).add(np.zeros((3, 4)))
    with pytest.raises(UserError, match="outside"):
        Covariance(5).add_sparse(np.array([[5]]), np.array([[1.0]]))
    with pytest.raises(UserError, match="no predictions"):
        Covariance(5).columns()

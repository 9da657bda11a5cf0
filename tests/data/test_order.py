"""The order is a pure function, the same set for any world size, each sample once an epoch."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscale.data.order import Order, concatenate

orders = st.builds(
    lambda sizes, seed, lanes, per_lane, window: Order(tuple(sizes), seed, lanes * per_lane, lanes, window),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    seed=st.integers(0, 2**31),
    lanes=st.sampled_from([1, 2, 4, 8]),
    per_lane=st.integers(1, 9),
    window=st.integers(1, 50),
)


def stream(order: Order, steps: int) -> np.ndarray:
    """(steps * batch, 3) shard, row, epoch in global order."""
    rows = [order.batch(step) for step in range(steps)]
    return np.concatenate([np.stack([r.shard, r.row, r.epoch], 1) for r in rows])


@settings(deadline=None, max_examples=150)
@given(orders)
def test_each_epoch_holds_each_sample_exactly_once(order: Order) -> None:
    seen = stream(order, order.steps(3))
    everything = sorted((s, r) for s, size in enumerate(order.sizes) for r in range(size))
    for epoch in range(3):
        assert sorted(map(tuple, seen[seen[:, 2] == epoch][:, :2])) == everything
    assert (seen[:, 2] >= 3).sum() < order.batch_size  # the last step borrows less than a batch


@settings(deadline=None, max_examples=60)
@given(orders, st.integers(0, 40))
def test_the_global_batch_is_the_same_for_any_number_of_ranks(order: Order, step: int) -> None:
    whole = order.batch(step)
    for world in (w for w in (1, 2, 4, 8) if order.lanes % w == 0):
        lanes = order.lanes // world
        parts = [order.batch(step, range(r * lanes, (r + 1) * lanes)) for r in range(world)]
        assert all(len(part.row) == order.batch_size // world for part in parts)
        for name in ("shard", "row", "epoch"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert joined.tobytes() == getattr(whole, name).tobytes()


@settings(deadline=None, max_examples=60)
@given(orders, st.data())
def test_the_sequence_goes_on_where_the_number_of_ranks_changes(order: Order, data: st.DataObject) -> None:
    """Stopped at any steps and continued by any number of ranks, the bytes are those of one rank undisturbed."""
    worlds = [world for world in (1, 2, 4, 8) if order.lanes % world == 0]
    steps = order.steps(1.5)
    stops = sorted(data.draw(st.lists(st.integers(0, steps), max_size=3)))
    seen = []
    for first, last in pairwise([0, *stops, steps]):
        world = data.draw(st.sampled_from(worlds))
        own = order.lanes // world
        for step in range(first, last):
            parts = [order.batch(step, range(rank * own, (rank + 1) * own)) for rank in range(world)]
            seen.append(concatenate(parts))
    for step, rows in enumerate(seen):
        whole = order.batch(step)
        assert all(getattr(rows, n).tobytes() == getattr(whole, n).tobytes() for n in ("shard", "row", "epoch"))


@settings(deadline=None, max_examples=100)
@given(orders, st.integers(0, 60))
def test_a_resume_reads_again_less_than_a_window_of_a_lane(order: Order, step: int) -> None:
    """And of one epoch: what a window held before the step that is resumed."""
    for lane in range(order.lanes):
        epoch, number, within = order.locate(lane, step * order.per_lane)
        again = within
        assert 0 <= again < order.window
        window = order.read_window(epoch, lane, number)
        assert len(window.row) <= order.window
        first = order.lane(lane, step * order.per_lane, 1)
        assert (window.shard[within], window.row[within]) == (first.shard[0], first.row[0])


def test_a_step_can_be_asked_for_alone() -> None:
    order = Order((30, 50, 20), 7, 16, 4, 10)
    forwards = [order.batch(step).row.tobytes() for step in range(20)]
    assert [order.batch(step).row.tobytes() for step in reversed(range(20))] == forwards[::-1]


def test_seeds_and_epochs_give_other_orders() -> None:
    one, two = Order((500,), 1, 500, 1, 500), Order((500,), 2, 500, 1, 500)
    assert (one.batch(0).row != two.batch(0).row).any()
    assert (one.batch(0).row != one.batch(1).row).any()


def test_the_permutation_stays_inside_its_window() -> None:
    order = Order((1000,), 3, 10, 1, 50)
    rows = np.concatenate([order.batch(step).row for step in range(100)])
    assert (np.abs(rows - np.arange(1000)) < 50).all()
    assert (rows // 50 == np.arange(1000) // 50).all()


def test_the_order_does_not_change_between_releases() -> None:
    """Golden rows: runs made by an earlier version must resume to the same result."""
    order = Order((6, 5, 9), 42, 8, 4, 4)
    assert order.batch(0).shard.tolist() == GOLDEN_SHARDS
    assert order.batch(0).row.tolist() == GOLDEN_ROWS


GOLDEN_SHARDS = [2, 2, 2, 2, 0, 0, 1, 1]
GOLDEN_ROWS = [3, 0, 8, 6, 4, 3, 1, 0]

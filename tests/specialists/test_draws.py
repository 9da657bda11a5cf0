"""A specialist's batches: fixed shares, each sample once a turn, and nothing but the step to know them."""

import numpy as np
import pytest

from kdscale.errors import UserError
from kdscale.specialists.draws import Draws

Y = np.arange(100) % 10


def test_a_fixed_share_of_every_batch_is_of_own_classes():
    draws = Draws(Y, [2, 5], 8, seed=1, share=0.25)
    for step in range(30):
        assert np.isin(Y[draws.batch(step)], [2, 5]).tolist() == [True] * 2 + [False] * 6
    assert (draws.prior, draws.sampled) == (0.2, 0.25)


def test_each_half_sees_every_sample_once_a_turn():
    draws = Draws(Y, [2, 5], 10, seed=1)
    own = np.concatenate([draws.batch(step)[:5] for step in range(8)])
    assert sorted(own[:20]) == sorted(own[20:]) == np.flatnonzero(np.isin(Y, [2, 5])).tolist()
    assert own[:20].tolist() != own[20:].tolist()
    rest = np.concatenate([draws.batch(step)[5:] for step in range(16)])
    assert sorted(rest) == np.flatnonzero(~np.isin(Y, [2, 5])).tolist()


def test_a_batch_may_be_larger_than_the_class_set():
    batch = Draws(Y[:20], [0], 10, seed=1).batch(3)
    assert np.bincount(batch[:5], minlength=11)[[0, 10]].sum() == 5


def test_batches_are_a_function_of_seed_and_step():
    steps = [Draws(Y, [2], 8, seed=1).batch(step) for step in (7, 3, 7)]
    assert np.array_equal(steps[0], steps[2])
    assert not np.array_equal(steps[0], steps[1])
    assert not np.array_equal(steps[0], Draws(Y, [2], 8, seed=2).batch(7))


def test_an_epoch_is_a_turn_through_the_own_classes():
    draws = Draws(Y, [2, 5], 8, seed=1)
    assert draws.steps(2) == 10
    assert draws.turns(4).tolist() == [0] * 8
    assert draws.turns(5).tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize(("own", "share"), [([11], 0.5), (list(range(10)), 0.5), ([2], 0.01), ([2], 1.0)])
def test_refuses(own, share):
    with pytest.raises(UserError, match="specialists"):
        Draws(Y, own, 8, seed=1, share=share)

import pytest

from kdscale.training import schedules
from kdscale.training.schedules import learning_rate


def test_one_cycle_climbs_to_the_peak_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 2.0, "one_cycle", 0.3) for step in range(100)]
    assert max(rates) == 2.0
    assert rates.index(2.0) == 30
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert 0 < rates[0] < 0.1
    assert 0 < rates[-1] < 0.01


def test_cosine_starts_at_the_peak_and_constant_stays() -> None:
    assert learning_rate(0, 10, 1.0, "cosine") == 1.0
    assert learning_rate(5, 10, 1.0, "cosine") == 0.5
    assert {learning_rate(s, 10, 1.0, "constant") for s in range(10)} == {1.0}


def test_a_single_step_is_fine() -> None:
    assert learning_rate(0, 1, 1.0, "one_cycle") > 0


def test_temperatures_go_from_the_first_to_the_last_step() -> None:
    assert [schedules.temperature(step, 5, 8.0, 2.0, "linear") for step in range(5)] == [8.0, 6.5, 5.0, 3.5, 2.0]
    cosine = [schedules.temperature(step, 5, 8.0, 2.0, "cosine") for step in range(5)]
    assert cosine == pytest.approx([8.0, 7.12132, 5.0, 2.87868, 2.0])
    assert schedules.temperature(3, 5, 8.0, 2.0, "constant") == 8.0
    assert schedules.temperature(0, 1, 8.0, 2.0, "linear") == 8.0

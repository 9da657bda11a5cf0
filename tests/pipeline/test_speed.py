"""How the speed of models is measured."""

import time

import pytest

from kdscale.pipeline import speed


def test_calls_take_turns_and_their_medians_are_told(monkeypatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.3)
    order = []

    def way(name: str, seconds: float):
        def once() -> None:
            order.append(name)
            time.sleep(seconds)

        return once

    slow, fast = speed.in_turn([way("slow", 0.004), way("fast", 0.001)])
    assert order[:6] == ["slow", "fast"] * 3
    assert slow == pytest.approx(0.004, rel=0.5)
    assert fast < slow

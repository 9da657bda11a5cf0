"""The view of a run on a terminal, and the lines elsewhere."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher import status

JOB = {"epoch": 1.0, "loss": 0.5, "node": "n1", "restarts": 0, "stage": "teachers", "seconds_left": 20.0}
MOVING = {**JOB, "state": "running", "step": 50, "steps": 100, "rate": 2.5}


def seen(*jobs: dict[str, Any], live: bool = True, total: int = 4) -> dict[str, Any]:
    return {
        "run": "runs/r",
        "name": "r",
        "stages": {"data": {"done": 1, "total": 1}, "teachers": {"done": 0, "total": total}},
        "seconds": {"data": 3.2},
        "jobs": [{"job": f"seed-{number}", **job} for number, job in enumerate(jobs)],
        "slurm": [],
        "ray": [],
        "live": live,
    }


def drawn(found: dict[str, Any], height: int = 30, width: int = 100) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(status.view(found, height))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_view_has_stages_members_rates_and_time_left() -> None:
    text = drawn(seen(MOVING, {**JOB, "state": "queued", "seconds_left": None, "loss": None}))
    assert "1 of 1" in text
    assert "0 of 4" in text
    (line,) = [line for line in text.splitlines() if "seed-0" in line]
    for word in ("running", "50 of 100", "0.5000", "2", "20 s", "n1"):
        assert word in line
    assert "faults" not in text


def test_the_time_left_of_a_stage_counts_the_members_that_wait() -> None:
    """One runs and has 20 s to go; three wait, 40 s each."""
    (line,) = [line for line in drawn(seen(MOVING)).splitlines() if line.startswith("  teachers")]
    assert "2:20 left" in line
    (line,) = [line for line in drawn(seen(MOVING, MOVING)).splitlines() if line.startswith("  teachers")]
    assert "60 s left" in line


def test_faults_are_said_with_where_to_look() -> None:
    failed = {**JOB, "state": "failed", "error": "the loss is nan", "traceback": "runs/r/error.txt"}
    text = drawn(seen(failed, {**MOVING, "state": "silent", "time": 0}, {**MOVING, "restarts": 2}))
    assert "seed-0: the loss is nan; see runs/r/error.txt" in text
    assert "seed-1: no sign of life from n1" in text
    assert "seed-2: started again 2 times" in text


def test_what_has_no_room_is_counted_and_what_runs_comes_first() -> None:
    jobs = [{**JOB, "state": "queued", "step": None}] * 50 + [MOVING] * 2
    text = drawn(seen(*jobs, total=52), height=20)
    assert len(text.splitlines()) <= 20
    assert "seed-50" in text
    assert "seed-51" in text
    assert "and 4" in text
    assert "queued" in text


def test_nothing_is_wider_than_the_terminal() -> None:
    failed = {**JOB, "state": "failed", "error": "x" * 300}
    assert max(map(len, drawn(seen(failed, MOVING), width=60).splitlines())) <= 60


def test_watching_ends_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [seen(MOVING), seen(MOVING), seen({**MOVING, "state": "done"}, live=False)]
    pauses: list[float] = []
    monkeypatch.setattr(status, "look", lambda run: looks.pop(0))
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    status.watch(Path("runs/r"), console, pauses.append)
    assert looks == []
    assert pauses == [status.EVERY, status.EVERY]
    assert "done" in console.file.getvalue()  # type: ignore[attr-defined]


def test_interrupting_the_view_leaves_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "look", lambda run: seen(MOVING))
    status.watch(Path("runs/r"), Console(file=io.StringIO(), force_terminal=True), interrupted)


def test_plain_lines_have_the_same() -> None:
    text = "\n".join(status.lines(seen(MOVING)))
    assert "teachers      0 of 4" in text
    assert "seed-0            running  step 50 of 100, epoch 1.0, loss 0.5000, on n1, 20 s left" in text


@pytest.mark.parametrize(("seconds", "text"), [(8.2, "8 s"), (99.4, "99 s"), (725, "12:05"), (11040, "3:04:00")])
def test_spans_are_short(seconds: float, text: str) -> None:
    assert status.span(seconds) == text

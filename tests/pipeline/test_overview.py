"""What `kdscale status` says of members, live and after the fact."""

import json
from pathlib import Path

import pytest

from kdscale.files import write_json
from kdscale.pipeline import overview
from kdscale.pipeline.run import only_driver, open_run
from kdscale.recipe import Recipe
from kdscale.tracking import status
from kdscale.tracking.status import Status


@pytest.fixture
def run(tmp_path: Path) -> Path:
    tree = {"model": {"name": "mlp", "hidden": [8]}, "count": 12}
    open_run(tmp_path / "run", Recipe(name="r", teachers=tree, student={"model": "mlp"}))
    return tmp_path / "run"


def member(run: Path, seed: int) -> dict:
    (found,) = (job for job in overview.overview(run)["jobs"] if job["job"] == f"seed-{seed}")
    return found


def test_members_are_listed_by_their_seeds_and_queued_until_they_start(run: Path) -> None:
    jobs = overview.overview(run)["jobs"]
    assert [job["job"] for job in jobs] == [f"seed-{seed}" for seed in range(12)]
    assert {job["state"] for job in jobs} == {"queued"}
    fields = {"state", "epoch", "loss", "node", "restarts", "seconds_left"}
    assert all(fields <= set(job) for job in jobs)


def test_a_member_runs_falls_silent_and_stops_with_its_driver(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run / "teachers" / "seed-1"
    Status(folder, job="seed-1").update(state="running", step=25, steps=100, epoch=1.0, loss=0.5, rate=10.0)
    assert member(run, 1)["state"] == "stopped"
    with only_driver(run):
        now = member(run, 1)
        assert (now["state"], now["seconds_left"], now["loss"], now["restarts"]) == ("running", 7.5, 0.5, 0)
        monkeypatch.setattr(overview, "STALE", -1.0)
        assert member(run, 1)["state"] == "silent"
        status.note(folder, "queued")
        assert member(run, 1)["state"] == "queued"
    assert member(run, 1)["state"] == "stopped"


def test_only_starts_after_a_crash_or_a_kill_count_as_restarts(run: Path) -> None:
    folder = run / "teachers" / "seed-2"
    Status(folder).update(state="running")
    Status(folder).update(state="running")  # the first was killed
    status.note(folder, "queued")
    third = Status(folder)
    third.update(state="running")
    assert member(run, 2)["restarts"] == 2
    third.update(state="stopped")
    Status(folder).update(state="running")
    assert member(run, 2)["restarts"] == 2


def test_a_failure_is_shown_with_its_sentence_and_its_traceback(run: Path) -> None:
    folder = run / "teachers" / "seed-3"
    Status(folder).update(state="running", step=7)
    status.note(folder, "failed", error="LookupError: a bug")
    (folder / status.ERROR).write_text("...")
    failed = member(run, 3)
    assert (failed["state"], failed["error"]) == ("failed", "LookupError: a bug")
    assert failed["traceback"] == str(folder / "error.txt")
    write_json(folder / "done.json", {})
    assert member(run, 3)["state"] == "done"
    json.dumps(failed)

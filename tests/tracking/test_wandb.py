"""W&B shows each row once, and none of its troubles reaches the job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.fake_wandb_server import FakeWandb
from support.wandb_rows import KEY, NOWHERE, offline_rows

from kdscale.recipe import WandB
from kdscale.tracking import names
from kdscale.tracking.identity import Identity
from kdscale.tracking.job import JobTracker
from kdscale.tracking.metrics import read
from kdscale.tracking.wandb import Watermark

WHO = Identity("quickstart-5eed", "teacher-0-abc", "teacher", "teacher-0", ("unit",), {"lr": 0.1})


def tracker(folder: Path, mode: str, resume_step: int = 0, who: Identity = WHO) -> JobTracker:
    return JobTracker(folder, "teachers", "teacher-0", resume_step, WandB(mode=mode), lambda: who)


def only_run(server: FakeWandb) -> dict[str, Any]:
    (run,) = server.runs.values()
    return run


def steps_of(run: dict[str, Any]) -> list[int]:
    return [row[names.STEP] for row in run["history"]]


def killed_job(folder: Path, mode: str, resume_step: int, last_step: int, linger: float) -> None:
    """A job in a process of its own that logs up to `last_step` and is killed `linger` seconds later."""
    code = f"""
import os, time
from pathlib import Path
from kdscale.recipe import WandB
from kdscale.tracking.identity import Identity
from kdscale.tracking.job import JobTracker
job = JobTracker(Path({str(folder)!r}), "teachers", "teacher-0", {resume_step}, WandB(mode={mode!r}), lambda: {WHO!r})
for step in range({resume_step} + 1, {last_step} + 1):
    job.log(step, loss=1 / step)
time.sleep({linger})
os.kill(os.getpid(), 9)
"""
    own_core = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, stdin=subprocess.DEVNULL, env=own_core)
    assert done.returncode == -signal.SIGKILL


def test_off_imports_no_wandb_and_writes_metrics_alone(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from kdscale.recipe import WandB
from kdscale.tracking.job import JobTracker
with JobTracker(Path({str(tmp_path)!r}), "teachers", "t", 0, WandB(), lambda: 1 / 0) as job:
    job.log(1, loss=0.5)
    job.summary(accuracy=1.0)
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"id": "x", "online": 3}'])
def test_a_damaged_watermark_counts_as_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "wandb.json").write_text(damage)
    assert not Watermark(tmp_path / "wandb.json", "x", offline=True).repeats(0)


def test_a_watermark_counts_the_rows_of_its_step(tmp_path: Path) -> None:
    first = Watermark(tmp_path / "wandb.json", "x", offline=True)
    for step in (1, 2, 2):
        assert not first.repeats(step)
        first.advance(step)
    again = Watermark(tmp_path / "wandb.json", "x", offline=True)
    assert [again.repeats(step) for step in (1, 2, 2, 2, 3)] == [True, True, True, False, False]
    assert not Watermark(tmp_path / "wandb.json", "other", offline=True).repeats(1)


@pytest.mark.slow
def test_an_offline_run_leaves_a_readable_log(clean: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tracker(tmp_path, "offline") as job:
        for step in range(1, 4):
            job.log(step, loss=1 / step)
    assert [(row[names.STEP], row["teacher/loss"]) for row in offline_rows(tmp_path)] == [
        (1, 1),
        (2, 1 / 2),
        (3, 1 / 3),
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_offline_job_killed_and_resumed_repeats_no_row(clean: None, tmp_path: Path) -> None:
    killed_job(tmp_path, "offline", 0, 6, linger=2.5)
    with tracker(tmp_path, "offline", resume_step=4) as job:
        for step in range(5, 9):
            job.log(step, loss=1 / step)
    assert [row[names.STEP] for row in offline_rows(tmp_path)] == list(range(1, 9))
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == list(range(1, 9))


@pytest.mark.slow
def test_an_online_run_arrives_once_with_group_job_type_and_config(server: FakeWandb, tmp_path: Path) -> None:
    with tracker(tmp_path, "online") as job:
        for step in range(1, 4):
            job.log(step, loss=1 / step)
        job.summary(best=0.9)
    run = only_run(server)
    assert steps_of(run) == [1, 2, 3]
    assert (run["group"], run["jobType"], run["displayName"]) == ("quickstart-5eed", "teacher", "teacher-0")
    assert (run["config"]["lr"]["value"], run["tags"], run["state"]) == (0.1, ["unit"], "finished")
    assert run["summary"]["teacher/best"] == 0.9
    assert not run["output"]
    assert not server.state.unknown


@pytest.mark.slow
def test_an_online_job_killed_and_resumed_shows_each_step_once(server: FakeWandb, tmp_path: Path) -> None:
    """The server never got the killed job's last rows; those before the checkpoint come from metrics.jsonl."""
    with tracker(tmp_path, "online") as job:
        for step in range(1, 4):
            job.log(step, loss=1 / step)
    killed_job(tmp_path, "online", 3, 8, linger=0)
    with tracker(tmp_path, "online", resume_step=6) as job:
        for step in range(7, 11):
            job.log(step, loss=1 / step)
    assert steps_of(only_run(server)) == list(range(1, 11))


@pytest.mark.slow
def test_two_jobs_of_one_process_have_a_run_each(server: FakeWandb, tmp_path: Path) -> None:
    jobs = [tracker(tmp_path / name, "online", who=Identity("g", f"{name}-1", "teacher", name)) for name in ("a", "b")]
    for step in (1, 2):
        for job in jobs:
            job.log(step, loss=1.0)
    jobs[0].close()
    jobs[1].close(exit_code=143)
    assert {run["displayName"]: (steps_of(run), run["exitcode"]) for run in server.runs.values()} == {
        "a": ([1, 2], 0),
        "b": ([1, 2], 143),
    }


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["silent", "no key"])
def test_without_a_server_or_key_the_run_goes_offline_and_says_so(
    clean: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    if trouble == "silent":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    start = time.monotonic()
    with tracker(tmp_path, "online") as job:
        job.log(1, loss=1.0)
    assert time.monotonic() - start < 30
    assert [row[names.STEP] for row in offline_rows(tmp_path)] == [1]
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"kdscale: W&B server {NOWHERE} ")
    assert ("does not answer" if trouble == "silent" else "no API key") in line
    assert "kdscale wandb sync RUN" in line


@pytest.mark.slow
def test_a_refused_run_goes_offline(server: FakeWandb, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.fault("graphql:UpsertBucket", status=403, times=1000)
    with tracker(tmp_path, "online") as job:
        job.log(1, loss=1.0)
    assert [row[names.STEP] for row in offline_rows(tmp_path)] == [1]
    assert "is logged offline" in capfd.readouterr().err


@pytest.mark.slow
def test_a_passing_fault_loses_nothing(server: FakeWandb, tmp_path: Path) -> None:
    server.fault("file_stream", status=429, times=1)
    with tracker(tmp_path, "online") as job:
        for step in range(1, 4):
            job.log(step, loss=1 / step)
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert set(steps_of(only_run(server))) <= {1, 2, 3}


@pytest.mark.slow
def test_a_lasting_fault_ends_in_a_sentence(
    server: FakeWandb, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.fault("file_stream", status=503, times=10_000)
    with tracker(tmp_path, "online") as job:
        job.log(1, loss=1.0)
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1]
    assert "W&B has not taken all rows of teacher-0 within 5 s" in capfd.readouterr().err
    server.state.faults.clear()
    with tracker(tmp_path, "online", resume_step=1) as job:
        job.log(2, loss=0.5)
    assert steps_of(only_run(server)) == [1, 2]


@pytest.mark.slow
def test_what_wandb_raises_later_stays_inside(
    clean: None, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def fail(*args: object, **options: object) -> None:
        raise ConnectionError("core is gone")

    job = tracker(tmp_path, "offline")
    monkeypatch.setattr(wandb.Run, "log", fail)
    for step in (1, 2):
        job.log(step, loss=1.0)
    job.summary(best=1.0)
    job.close()
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2]
    assert capfd.readouterr().err == "kdscale: logging teacher-0 to W&B ended (core is gone); metrics.jsonl goes on\n"

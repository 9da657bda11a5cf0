"""Kills: the same command afterwards goes on from the last commit and ends in the same numbers.

KDSCALE_KILLS sets how many moments are tried; `make soak` tries a hundred.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from support.place import STUDENT, differences, same_students, write_recipe

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KDSCALE_KILLS", "2"))


def numbers(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())["splits"]


def processes(folder: Path) -> list[psutil.Process]:
    """Whatever still works in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_sigkill_at_random_moments_changes_nothing(finished, place, record_property) -> None:
    expected = numbers(finished.run)
    killed = place()
    dice = random.Random(time.time_ns())
    moments = []
    for _ in range(KILLS):
        process = killed.start("run", "tiny.yaml")
        moment = dice.uniform(2, 24)
        moments.append(round(moment, 2))
        try:
            process.communicate(timeout=moment)
            assert process.returncode == 0
            assert not differences(numbers(killed.run), expected)
            shutil.rmtree(killed.run)  # finished before the kill: begin anew
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    record_property("moments", moments)
    killed.kdscale("run", "tiny.yaml")
    assert not differences(numbers(killed.run), expected), f"killed after {moments} seconds"
    assert not list(killed.run.rglob("checkpoints"))


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "pattern", [pytest.param("teachers/seed-1", marks=pytest.mark.soak), "students/student-seed-0"]
)
def test_a_worker_that_is_killed_is_replaced_and_goes_on(finished, place, pattern: str) -> None:
    hurt = place()
    process = hurt.start(*STUDENT)
    status = hurt.run / pattern / "status.json"
    checkpoint = hurt.run / pattern / "checkpoints"
    wait_for(lambda: status.exists() and list(checkpoint.rglob("latest.json")))
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert same_students(hurt, finished)


def latest(run: Path) -> dict[str, int]:
    """Steps behind each member's last checkpoint."""
    return {p.parts[-4]: json.loads(p.read_text())["step"] for p in run.glob("teachers/*/checkpoints/*/latest.json")}


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("teachers/*/weights.safetensors")}


@pytest.mark.soak
def test_a_killed_pack_goes_on_as_it_is_or_otherwise_and_ends_in_the_same_bytes(place, tmp_path: Path) -> None:
    """Packs of 3, of 2, one by one: after each kill the members are shared out anew, as they were left."""
    longer = {"teachers": {"epochs": 40, "checkpoint_epochs": 1}}
    (tmp_path / "alone").mkdir()
    alone, hurt = write_recipe(tmp_path / "alone", longer), place(**longer)
    alone.kdscale("teachers", "tiny.yaml", "teachers.pack=1")
    for pack in (3, 2):
        before = latest(hurt.run)
        process = hurt.start("teachers", "tiny.yaml", f"teachers.pack={pack}")
        wait_for(lambda before=before: len(latest(hurt.run)) == 3 and latest(hurt.run) != before)
        process.send_signal(signal.SIGKILL)
        for status in hurt.run.glob("teachers/*/status.json"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
        process.communicate()
        assert json.loads((hurt.run / "teachers" / "pack.json").read_text())["size"] == pack
        assert not weights(hurt.run)
    hurt.kdscale("teachers", "tiny.yaml", "teachers.pack=1")
    assert weights(hurt.run) == weights(alone.run)
    seen = json.loads(hurt.kdscale("status", "runs/tiny", "--json")[0])
    assert [(job["job"], job["state"]) for job in seen["jobs"]] == [(f"seed-{seed}", "done") for seed in range(3)]


def test_a_killed_worker_of_a_pack_is_replaced(finished, place) -> None:
    hurt = place()
    process = hurt.start("teachers", "tiny.yaml", "teachers.pack=3")
    status = hurt.run / "teachers" / "seed-1" / "status.json"
    wait_for(lambda: status.exists() and len(latest(hurt.run)) == 3)
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert weights(hurt.run) == weights(finished.run)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_a_stop_signal_saves_and_ends_cleanly(place, number: int, code: int) -> None:
    stopped = place()
    process = stopped.start("run", "tiny.yaml", "teachers.epochs=400")
    status = stopped.run / "teachers" / "seed-0" / "status.json"
    wait_for(lambda: status.exists() and "step" in json.loads(status.read_text()))
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "stopping: what is under way is being saved" in err
    assert "stopped; everything is saved" in err
    assert list(stopped.run.glob("teachers/seed-0/checkpoints/*/latest.json"))
    wait_for(lambda: not processes(stopped.folder), 20)
    seen = json.loads(stopped.kdscale("status", "runs/tiny", "--json")[0])
    assert {job["state"] for job in seen["jobs"] if "step" in job} == {"stopped"}
    assert {job["state"] for job in seen["jobs"] if "step" not in job} <= {"queued"}


def test_nothing_of_a_killed_run_stays_behind(place) -> None:
    killed = place()
    process = killed.start("run", "tiny.yaml", "teachers.epochs=400")
    wait_for(lambda: list(killed.run.glob("teachers/*/status.json")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not [p for p in processes(killed.folder) if p.name().startswith("ray::teacher")], 30)
    wait_for(lambda: not processes(killed.folder), 150)  # Ray's agents look for their raylet once a minute

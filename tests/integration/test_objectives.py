"""Every option of the objective in one student, and the same one again, a rank of which is told to go midway."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def hit_a_rank(folder: Path, number: int) -> None:
    """A signal to the first rank once it has a checkpoint: SIGTERM as a node that is drained sends it, SIGKILL as one that dies."""
    deadline = time.monotonic() + 90
    while not list((folder / "checkpoints").rglob("latest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(json.loads((folder / "status.json").read_text())["pid"], number)


def test_a_student_with_every_option_comes_out_the_same_when_a_rank_was_told_to_go(copy) -> None:
    options = [
        "student.temperature_schedule=cosine",
        "student.temperature_end=1",
        "student.divergence=jensen_shannon",
        "student.alpha=0.3",
        "student.hard_weight=0",
        "student.label_smoothing=0.1",
        "student.mixup=0.4",
        "student.control=false",
        "student.checkpoint_epochs=0.25",
        "student.keep=best",
        "student.workers=2",
    ]
    folder, weights = copy.run / "students" / "student-seed-0", []
    for hurt in (False, True):
        process = copy.start("student", "tiny.yaml", *options)
        if hurt:
            hit_a_rank(folder, signal.SIGTERM)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        status = json.loads((folder / "status.json").read_text())
        assert (status["resumed"] > 0, status["restarts"]) == (hurt, 0)
        done = json.loads((folder / "done.json").read_text())
        weights.append((done["weights"], done["best"]))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found = [row["temperature"] for row in rows if "temperature" in row]
        assert found[0] > found[-1]
        looks = [row for row in rows if "validation_accuracy" in row]
        assert len(looks) == 8
        assert max(row["validation_accuracy"] for row in looks) == 1 - done["best"]["errors"] / done["best"]["n"]
        assert found[-1] == pytest.approx(1, abs=0.5)
        (folder / "done.json").unlink()
    assert weights[0] == weights[1]


@pytest.mark.soak
def test_a_student_with_a_head_for_each_teacher_survives_a_kill_is_evaluated_exported_and_folded(copy) -> None:
    mimic = [
        "student.match=mimic_all",
        "student.mixup=0.2",
        "student.control=false",
        "student.checkpoint_epochs=0.25",
        "student.workers=2",
    ]
    folder = copy.run / "students" / "student-seed-0"
    process = copy.start("student", "tiny.yaml", *mimic)
    hit_a_rank(folder, signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads((folder / "status.json").read_text())["resumed"] > 0
    hurt = json.loads((folder / "done.json").read_text())["weights"]
    (folder / "done.json").unlink()
    copy.kdscale("evaluate", "tiny.yaml", *mimic)
    assert json.loads((folder / "done.json").read_text())["weights"] == hurt
    assert json.loads((folder / "status.json").read_text())["resumed"] == 0
    seen = json.loads((copy.run / "results.json").read_text())
    plain = 64 * 16 + 16 + 16 * 10 + 10
    assert seen["models"]["student"]["parameters"] == plain + 2 * 170
    assert seen["splits"]["test"]["student"]["accuracy"] > 0.8
    made = json.loads(copy.kdscale("export", "tiny.yaml", "student", "--to", "safetensors", "--json")[0])
    assert made["samples"] == made["same"] == 359
    copy.kdscale("student", "tiny.yaml", *mimic, "student.fold=true", "student.epochs=1")
    weights = load_file(copy.run / "students/student-seed-0/weights.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == plain

"""Every option of the objective in one student, and the same one again."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_a_student_with_every_option_comes_out_the_same_twice(copy) -> None:
    options = [
        "student.temperature_schedule=cosine",
        "student.temperature_end=1",
        "student.divergence=jensen_shannon",
        "student.alpha=0.3",
        "student.hard_weight=0",
        "student.label_smoothing=0.1",
        "student.mixup=0.4",
        "student.control=false",
    ]
    folder, weights = copy.run / "students" / "student-seed-0", []
    for _ in range(2):
        copy.kdscale("student", "tiny.yaml", *options)
        weights.append(json.loads((folder / "done.json").read_text())["weights"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found = [row["temperature"] for row in rows if "temperature" in row]
        assert found[0] > found[-1]
        assert found[-1] == pytest.approx(1, abs=0.5)
        (folder / "done.json").unlink()
    assert weights[0] == weights[1]

"""metrics.jsonl: whole rows, once each, whatever kills the job."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kdscale.tracking.metrics import MetricsLog, merge, read


def fill(path: Path, steps: range, resume_step: int = 0) -> None:
    with MetricsLog(path, resume_step, stage="teachers", job="teacher-0") as log:
        for step in steps:
            log.log(step, loss=1.0 / (step + 1))


def steps_of(path: Path) -> list[int]:
    return [row["step"] for row in read(path)]


def test_rows_carry_the_constant_fields_and_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job" / "metrics.jsonl"
    log = MetricsLog(path, stage="student", job="student-0")
    log.log(3, loss=0.5, accuracy=1)
    assert json.loads(path.read_text()) == {
        "stage": "student",
        "job": "student-0",
        "step": 3,
        "loss": 0.5,
        "accuracy": 1,
    }
    log.close()


def test_resume_drops_the_rows_that_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, range(0, 10))
    fill(path, range(5, 12), resume_step=4)
    assert steps_of(path) == list(range(12))


def test_a_start_from_nothing_leaves_no_row_of_the_attempt_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, range(0, 3))
    fill(path, range(0, 2))
    assert steps_of(path) == [0, 1]


@pytest.mark.parametrize("torn", [b'{"stage": "teachers", "st', b"\xff\xc3", b"\0" * 40, b'{"step": 2}\n17\n'])
def test_torn_lines_are_not_read_and_gone_after_resume(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, range(1, 3))
    path.write_bytes(path.read_bytes() + torn)
    assert steps_of(path)[:2] == [1, 2]
    fill(path, range(2, 4), resume_step=1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_last_row_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, range(1, 3))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    fill(path, range(3, 4), resume_step=2)
    assert steps_of(path) == [1, 2, 3]


def test_no_number_makes_the_file_invalid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.log(1, a=math.nan, b=-math.inf, c=[math.inf, 1.0], d=np.float32("nan"), e=np.float64(2), f=np.int64(3))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"step": 1, "a": None, "b": None, "c": [None, 1.0], "d": None, "e": 2.0, "f": 3}


def test_a_job_without_a_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl") == []


def test_merge_keeps_the_given_order_and_leaves_torn_lines_out(tmp_path: Path) -> None:
    first, second = tmp_path / "b" / "metrics.jsonl", tmp_path / "a" / "metrics.jsonl"
    fill(first, range(1, 3))
    fill(second, range(5, 7))
    first.write_text(first.read_text() + '{"torn')
    merge(tmp_path, [first, Path("a/metrics.jsonl"), tmp_path / "absent.jsonl"], Path("metrics.jsonl"))
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 5, 6]
    assert not list(tmp_path.glob(".tmp-*"))

"""What a stage took is added up over commands and jobs, and begins anew with another artefact."""

import pytest

from kdscale.files import read_json
from kdscale.pipeline.accounts import STAGES, Accounts


def test_commands_and_jobs_add_up(tmp_path) -> None:
    for _ in range(2):
        accounts = Accounts(tmp_path)
        accounts.book("teachers", 2, 0.5, 10.0)
        accounts.book("teachers", 1, 0, 4.0)
        accounts.book("logits", 1, 1, 3.0)
        accounts.spend("teachers", "one", 12.0)
        assert accounts.booked == ["logits"]
        accounts.spend("logits", "one")
        assert accounts.booked == []
    kept = read_json(tmp_path / STAGES)
    assert kept["teachers"] == {"fingerprint": "one", "seconds": 24.0, "cpu_seconds": 48.0, "gpu_seconds": 10.0}
    assert kept["logits"] == {"fingerprint": "one", "seconds": 0.0, "cpu_seconds": 6.0, "gpu_seconds": 6.0}


def test_another_artefact_begins_at_zero(tmp_path) -> None:
    accounts = Accounts(tmp_path)
    accounts.spend("student", "one", 5.0)
    accounts.book("student", 2, 0, 1.0)
    accounts.spend("student", "two", 1.0)
    assert accounts.seconds() == {"student": 1.0}
    assert accounts.totals("student", "two", 0.5)["cpu_seconds"] == {"student": 2.0}


def test_totals_are_of_now_and_leave_the_account_as_it_is(tmp_path) -> None:
    accounts = Accounts(tmp_path)
    accounts.spend("data", "one", 1.0)
    accounts.book("evaluate", 1, 0, 2.0)
    totals = accounts.totals("evaluate", "one", 3.0)
    assert totals["seconds"] == {"data": 1.0, "evaluate": 3.0}
    assert totals["cpu_seconds"] == {"data": 0.0, "evaluate": 2.0}
    assert accounts.seconds() == {"data": 1.0}
    accounts.spend("evaluate", "one", 3.0)
    assert accounts.totals("evaluate", "one", 0.0) == totals


def test_accounts_of_before_there_were_hours_are_read(tmp_path) -> None:
    (tmp_path / STAGES).write_text('{"teachers": {"fingerprint": "one", "seconds": 2.0}}')
    accounts = Accounts(tmp_path)
    accounts.book("teachers", 1, 0, 1.0)
    assert accounts.totals("teachers", "one", 1.0)["cpu_seconds"] == {"teachers": 1.0}
    assert accounts.seconds() == {"teachers": 2.0}


def test_a_stretch_that_fails_is_counted_less_what_is_anothers(tmp_path) -> None:
    accounts = Accounts(tmp_path)

    def fail() -> None:
        with accounts.timed("teachers", "one") as stretch:
            stretch.other = 100.0
            raise RuntimeError("the stage fails")

    with pytest.raises(RuntimeError, match="the stage fails"):
        fail()
    assert accounts.seconds()["teachers"] == pytest.approx(-100.0, abs=1.0)

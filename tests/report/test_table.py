"""The table has the rows and numbers that a reader needs, at the width of a plain terminal."""

import io

import pytest
from rich.console import Console

from kdscale.errors import UserError
from kdscale.report.results import checked
from kdscale.report.table import rows, table

TEACHERS = [60, 64, 56, 62, 58]


def printed(results, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table(results))
    return console.file.getvalue()


def test_a_row_for_each_model(results):
    found = rows(checked(results(TEACHERS, control=[60, 62, 61])).splits["test"])
    assert [row.label for row in found] == [
        *(f"teacher {seed}" for seed in range(5)),
        "5 teachers",
        "ensemble",
        "student",
        "control",
    ]


def test_spread_where_there_are_several_seeds(results):
    found = {row.label: row.cells for row in rows(checked(results(TEACHERS, control=[60])).splits["test"])}
    assert found["student"][:2] == ["95.40±0.10", "46.0±1.0"]
    assert found["control"][:2] == ["94.00", "60"]
    assert found["ensemble"][:2] == ["96.00", "40"]


def test_many_teachers_are_summed_up(results):
    found = rows(checked(results(list(range(50, 70)))).splits["test"])
    assert [row.label.strip() for row in found] == ["20 teachers", "range", "ensemble", "student"]
    assert found[1].cells[1] == "50\N{EN DASH}69"


def test_a_single_teacher_has_no_mean(results):
    found = rows(checked(results([50], ensemble=50)).splits["test"])
    assert [row.label for row in found] == ["teacher 0", "ensemble", "student"]


def test_missing_and_undefined_numbers_are_dashes(results):
    tree = results(TEACHERS)
    del tree["splits"]["test"]["ensemble"]["agreement"]
    tree["splits"]["test"]["ensemble"]["nll"] = float("nan")
    found = {row.label: row.cells for row in rows(checked(tree).splits["test"])}
    assert found["ensemble"][2] == found["ensemble"][5] == "\N{EN DASH}"


@pytest.mark.parametrize("teachers", [TEACHERS, list(range(50, 70))])
def test_nothing_is_cut_at_80_columns(results, teachers):
    text = printed(results(teachers, control=[60, 62, 61]))
    assert "…" not in text
    assert "fewer errors than its control" in " ".join(text.split())


def test_a_split_is_named_with_its_samples(results):
    assert printed(results(TEACHERS)).startswith("test: 1,000 samples")


def test_garbled_results_are_refused():
    with pytest.raises(UserError, match="kdscale evaluate"):
        table({"splits": {}})

"""Runs side by side say what results.json of each says, and nothing where a run has nothing."""

import io
import json

import pytest
from rich.console import Console

from kdscale.errors import UserError
from kdscale.report import comparison
from kdscale.report.table import NOTHING


@pytest.fixture
def runs(results, tmp_path):
    from report.conftest import write

    first = results([60, 64, 56], control=[60, 62, 61])
    second = results([50, 54], ensemble=35, student=[40, 42, 41])
    second["recipe"] = {**second["recipe"], "student": {"model": {"name": "mlp"}, "temperature": 8.0}}
    second["store"] = {
        **{"codec": {"name": "topk", "k": 4}, "rows": 10, "bytes": 200, "bytes_per_row": 20.0},
        **{"members": 2, "shards": 1, "views": 1},
    }
    return [write(tmp_path / name, tree) for name, tree in (("first", first), ("second", second))]


def lines(compared):
    return {line.label: line for line in compared.lines}


def test_every_number_is_there_and_the_best_is_marked(runs):
    found = lines(comparison.read(runs))
    assert found["student, accuracy %"].cells == ["95.40±0.10", "95.90±0.10"]
    assert found["student, accuracy %"].best == [False, True]
    assert found["student, NLL"].best == [False, True]
    assert found["control, accuracy %"].cells == ["93.90±0.10", NOTHING]
    assert found["control, accuracy %"].best == [False, False]
    assert found["members"].cells == ["3", "2"]
    assert found["store, bytes a row"].cells == [NOTHING, "20.0"]
    assert "joint, accuracy %" not in found


def test_recipes_show_in_what_they_differ(runs):
    compared = comparison.read(runs)
    assert {line.label: line.cells for line in compared.differences} == {
        "teachers.count": ["3", "2"],
        "student.temperature": ["4.0", "8.0"],
    }


def test_other_data_is_said(runs):
    tree = json.loads((runs[1] / "results.json").read_text())
    tree["dataset"]["fingerprint"] = "0" * 64
    assert any(any(line.best) for line in comparison.read(runs).lines)
    (runs[1] / "results.json").write_text(json.dumps(tree))
    compared = comparison.read(runs)
    assert not any(any(line.best) for line in compared.lines)
    assert compared.notes == ["The runs were measured on different datasets, so their numbers do not compare."]


def test_table_and_page_say_the_same(runs, tmp_path):
    compared = comparison.read(runs)
    console = Console(width=100, record=True, file=io.StringIO())
    for table in comparison.tables(compared):
        console.print(table)
    shown = console.export_text()
    path = tmp_path / "out" / "compared.html"
    comparison.write(compared, path)
    page = path.read_text()
    for line in [*compared.lines, *compared.differences]:
        assert line.label in shown
        assert line.label in page
        for cell in line.cells:
            assert cell in shown
            assert cell.replace("±", " ± ") in page
    assert "http" not in page
    assert "Accuracy of every run: first" in page
    assert page.count('class="best"') == sum(map(sum, (line.best for line in compared.lines)))
    assert comparison.as_json(compared)["results"]["members"] == ["3", "2"]


def test_one_run_is_not_compared(runs):
    with pytest.raises(UserError, match="two runs or more"):
        comparison.read(runs[:1])


def test_runs_of_one_name_are_told_apart(results, tmp_path):
    from report.conftest import write

    made = [write(tmp_path / where / "run", results([60, 64])) for where in "ab"]
    compared = comparison.read(made)
    assert compared.names == [str(path) for path in made]
    assert compared.differences == []

"""The specialists' tables and figure say what results.json says."""

import io

from rich.console import Console

from kdscale.report import specialists
from kdscale.report.page import render
from kdscale.report.results import checked
from kdscale.report.table import gains, rows


def with_specialists(results, conftest_trained):
    tree = results([60, 64, 56], control=[60, 62, 61])
    test = tree["splits"]["test"]
    for name in ("specialists", "distilled", "mixture"):
        test[name] = conftest_trained
    test["gains"] = {
        "generalist": "control",
        "seeds": [{"seed": 0, "sets": [[0, 1, 2], [2, 9]], "purity": None}],
        "test": {"before": 0.9, "after": 0.945, "relative": 0.05, "each": [0.04, 0.06]},
        "conditional": {"before": 0.8, "after": 0.9, "relative": 0.125},
        "coverage": [
            {"specialists": 0, "examples": 600, "before": 500, "after": 500, "change": 0, "relative": 0.0},
            {"specialists": 1, "examples": 300, "before": 250, "after": 260, "change": 10, "relative": 0.04},
            {"specialists": 2, "examples": 100, "before": 0, "after": 9, "change": 9, "relative": None},
        ],
        "trend": 1.0,
    }
    return tree


def test_the_tables_have_the_numbers(results):
    tree = with_specialists(results, results([1], student=[40, 44])["splits"]["test"]["student"])
    split = checked(tree).splits["test"]
    assert [row.kind for row in rows(split)][-3:] == ["specialists", "distilled", "mixture"]
    assert specialists.accuracies(split.gains) == [
        ["test accuracy", "90.00", "94.50", "+5.0±1.4%"],
        ["conditional accuracy", "80.00", "90.00", "+12.5%"],
    ]
    assert [row[2:] for row in specialists.coverage(split.gains)] == [
        ["500", "+0", "+0.0"],
        ["250", "+10", "+4.0"],
        ["0", "+9", ""],
    ]
    console = Console(file=io.StringIO(), width=100)
    console.print(gains(tree))
    assert "the control is right on 94.50%" in console.file.getvalue()
    assert gains(results([1, 2])) is None


def test_the_page_shows_them(results, run):
    tree = with_specialists(results, results([1], student=[40, 44])["splits"]["test"]["student"])
    page = render(run(tree)).read_text()
    for words in ("Gain by coverage", "conditional accuracy", "The classes of 2 specialists", "+12.5%"):
        assert words in page
    assert "2, 9" in page
    assert "<h2>Specialists</h2>" not in render(run(results([1, 2]))).read_text()

"""A study's tables and page: what holds is told, and the page needs nothing but itself."""

from pathlib import Path
from typing import Any

from rich.console import Console

from kdscale.report.study import markdown, render, tables
from kdscale.studies.findings import Claim, Findings, Lines, Row


def study(claims: list[Claim]) -> dict[str, Any]:
    lines = [Lines("Accuracy & size", "members", "accuracy, %", {"one": [(1.0, [2.0, 3.0]), (2.0, [4.0, 4.5])]}, True)]
    panel = {
        "title": "Views",
        "caption": "Parts.",
        "columns": ["net 0"],
        "rows": [{"label": "cat <1>", "cells": [{"label": "channel 3", "images": ["data:image/png;base64,AA"]}]}],
    }
    found = Findings([Row("student <b>", [74.0, 80.0], 74, "errors")], claims, lines, ["Of digits."], [panel])
    machine = {"kdscale": "0", "python": "3", "system": "x"}
    about = {"study": "a-study", "claim": "it helps", "source": "A paper", "quick": True, "seeds": 2, "seconds": 3.0}
    return {**about, **found.as_json(), "recipe": {"name": "a"}, "varied": {"run-1": ["x: 1 -> 2"]}, "machine": machine}


def shown(claims: list[Claim]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        for grid in tables(study(claims)):
            console.print(grid)
    return " ".join(capture.get().split())


def test_numbers_stand_beside_the_papers_and_claims_are_told() -> None:
    text = shown([Claim("fewer errors", [3.0, 1.0]), Claim("twice as good", [-1.0], 0.5)])
    assert "student <b> 77.00 ± 4.24 2 74 errors" in text
    assert "fewer errors 2.00 ± 1.41 > 0 2 holds" in text
    assert "twice as good -1.00 > 0.5 1 does not hold" in text
    assert text.endswith("Of digits.")


def test_tables_can_be_pasted(tmp_path: Path) -> None:
    text = markdown(study([Claim("fewer | errors", [3.0, 1.0]), Claim("twice as good", [-1.0], 0.5)]))
    assert text.splitlines() == [
        "| measured | here | seeds | the paper |",
        "| --- | --- | --- | --- |",
        "| student <b> | 77.00 ± 4.24 errors | 2 | 74 |",
        "",
        "| claim | margin | needed | seeds | here |",
        "| --- | --- | --- | --- | --- |",
        "| fewer \\| errors | 2.00 ± 1.41 | > 0 | 2 | holds |",
        "| twice as good | -1.00 | > 0.5 | 1 | **does not hold** |",
    ]
    assert "claim" not in markdown(study([]))
    render(tmp_path, study([]))
    assert (tmp_path / "tables.md").read_text() == markdown(study([]))


def test_a_study_without_claims_is_a_table_alone() -> None:
    assert "margin" not in shown([])
    assert shown([]).endswith("Of digits.")


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    page = render(tmp_path, study([Claim("fewer errors", [3.0])])).read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "student &lt;b&gt;" in page
    assert "cat &lt;1&gt;" in page
    assert page.index("net 0") < page.index("channel 3")
    assert 'src="data:image/png;base64,AA"' in page
    assert "x: 1 -&gt; 2" in page
    assert "does not hold" not in page
    again = render(tmp_path, study([])).read_text()
    assert "<h2>Claims</h2>" not in again

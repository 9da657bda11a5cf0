"""Numbers, margins, and what holds."""

import pytest

from kdscale.studies.findings import Claim, Findings, Lines, Row, above, figures, summed


def test_a_claim_holds_if_its_mean_margin_exceeds_the_bound() -> None:
    assert above("a", [2.0, 1.0], [1.0, 1.5]).holds
    assert not above("a", [2.0, 1.0], [1.0, 2.5]).holds
    assert not Claim("equal is not above", [0.0]).holds
    assert not above("by two", [3.0], [1.5], least=2).holds


def test_unpaired_values_are_compared_with_the_mean() -> None:
    assert above("a", [2.0, 4.0, 6.0], [1.0, 3.0]).margins == [0.0, 2.0, 4.0]


def test_mean_and_spread() -> None:
    found = summed([1, 2, 3])
    assert (found["mean"], found["spread"], found["values"]) == (2.0, pytest.approx(1.0), [1.0, 2.0, 3.0])
    assert summed([4])["spread"] is None


def test_figures_have_what_machines_read() -> None:
    lines = Lines("l", "x", "y", {"s": [(1.0, [2.0])], "empty": []})
    found = Findings([Row("r", [1.0, 2.0], 3.0)], [Claim("c", [-1.0])], [lines]).as_json()
    assert list(found["lines"][0]["series"]) == ["s"]
    row, claim = figures(found)
    assert {"name", "value", "unit", "bound", "holds"} <= row.keys() & claim.keys()
    assert (row["name"], row["value"], row["paper"], row["holds"]) == ("r", 1.5, 3.0, None)
    assert (claim["value"], claim["bound"], claim["holds"], claim["seeds"]) == (-1.0, "> 0", False, 1)

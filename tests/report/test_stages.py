"""The table of time and cost by stage."""

import pytest

from kdscale.report.page import render
from kdscale.report.results import checked
from kdscale.report.stages import Prices, hours, stages
from kdscale.report.table import NOTHING


@pytest.fixture
def held(results):
    tree = results([60, 64])
    tree["seconds"] = {"data": 10.0, "teachers": 90.0}
    tree["cpu_seconds"] = {"data": 0.0, "teachers": 7200.0}
    tree["gpu_seconds"] = {"data": 0.0, "teachers": 1800.0}
    return tree


def test_time_hours_and_cost(held) -> None:
    found = stages(checked(held), Prices(cpu=0.1, gpu=3.0))
    assert found is not None
    assert found.headings == ["stage", "time", "of the whole", "core-hours", "GPU-hours", "cost"]
    assert found.rows == [
        ["data", "10 s", "10%", NOTHING, NOTHING, NOTHING],
        ["teachers", "1 min 30 s", "90%", "2.000", "0.500", "1.70"],
        ["together", "1 min 40 s", "100%", "2.000", "0.500", "1.70"],
    ]


def test_what_would_be_empty_is_left_out(held) -> None:
    held["gpu_seconds"]["teachers"] = 0.0
    assert stages(checked(held), Prices()).headings == ["stage", "time", "of the whole", "core-hours"]
    held["cpu_seconds"] = {}
    assert stages(checked(held), Prices(1, 1)).headings == ["stage", "time", "of the whole"]
    held["seconds"] = {}
    assert stages(checked(held), Prices()) is None


@pytest.mark.parametrize("recipe", [None, "text", {}, {"cluster": None}, {"cluster": {"cpu_hour": "dear"}}])
def test_prices_that_are_not_there_are_zero(recipe) -> None:
    assert Prices.of(recipe) == Prices(0, 0)


def test_the_page_takes_prices_from_the_runs_recipe(held, run) -> None:
    folder = run(held)
    (folder / "recipe.yaml").write_text("name: digits-example\ncluster: {cpu_hour: 0.5, gpu_hour: 2}\n")
    page = render(folder).read_text()
    assert '<th scope="col">GPU-hours</th><th scope="col">cost</th>' in page
    assert "<td>0.500</td><td>2.00</td>" in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, NOTHING), (1.0, "< 0.001"), (36.0, "0.010"), (3600 * 12.3456, "12.346"), (3.6e7, "10,000")],
)
def test_hours(seconds, text) -> None:
    assert hours(seconds) == text

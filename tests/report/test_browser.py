"""The pages in a real browser: nothing is asked of a network, nothing overflows, light, dark and on paper."""

import io
import re
from pathlib import Path

import pytest
from support import browser

from kdscale.report import comparison
from kdscale.report.page import render

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def opened():
    if reason := browser.why_not():
        pytest.skip(reason)
    with browser.browser() as made:
        yield made


@pytest.fixture
def pages(results, loss_rows, tmp_path) -> dict[str, Path]:
    """The page of a run with everything, one with next to nothing, and two runs compared."""
    from report.conftest import write
    from report.test_specialists import with_specialists

    full = with_specialists(results, results([1], student=[40, 44])["splits"]["test"]["student"])
    full["recipe"]["name"] = "a-recipe-with-a-rather-long-name-that-has-to-be-broken-somewhere-on-a-telephone"
    full["store"] = {
        **{"codec": {"name": "topk", "k": 16, "temperatures": [4.0]}, "rows": 24000, "bytes": 3_000_000},
        **{"bytes_per_row": 125.0, "members": 3, "shards": 8, "views": 1},
        "fidelity": {
            "rows": 256,
            "temperature": 4.0,
            "kl": 0.00321,
            "agreement": 0.996,
            "ece_gap": 0.001,
            "angle": 2.1,
        },
    }
    first = write(tmp_path / "full", full, loss_rows(3))
    second = write(tmp_path / "bare", results([60, 64]))
    compared = tmp_path / "compared.html"
    comparison.write(comparison.read([first, second]), compared)
    return {"full": render(first), "bare": render(second), "compared": compared}


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["full", "bare", "compared"])
def test_nothing_overflows_and_nothing_is_asked(opened, pages, tmp_path, name: str, width: int) -> None:
    seen = browser.look(opened, pages[name], tmp_path / f"{name}-{width}.png", width)
    assert seen.errors == []
    assert seen.asked == []
    assert seen.width <= width
    assert seen.cut == []


def test_a_telephone_shows_what_was_measured_beside_a_long_label(opened, tmp_path) -> None:
    from kdscale.report import study
    from kdscale.studies.findings import Claim, Findings, Row

    label = "labels, same features, tangent, width 3, at a temperature of 20"
    found = Findings([Row(label, [74.0, 80.0], 74, "%")], [Claim(label, [3.0, 1.0])])
    about = {"study": "a-study", "claim": "it helps", "source": "A paper", "quick": True, "seeds": 2, "seconds": 3.0}
    machine = {"kdscale": "0", "python": "3", "system": "x"}
    page = study.render(tmp_path, {**about, **found.as_json(), "recipe": {}, "varied": {}, "machine": machine})
    tab = opened.new_page(viewport={"width": 390, "height": 900})
    tab.goto(page.as_uri())
    ends = tab.evaluate(
        "[...document.querySelectorAll('tbody td:nth-child(2)')].map(e => e.getBoundingClientRect().right)"
    )
    assert len(ends) == 2
    assert max(ends) <= 390


def test_dark_is_dark_and_paper_is_white(opened, pages, tmp_path) -> None:
    def shades(text: str) -> float:
        return sum(map(int, re.findall(r"\d+", text)[:3])) / 3

    light = browser.look(opened, pages["full"], tmp_path / "light.png", 1440)
    dark = browser.look(opened, pages["full"], tmp_path / "dark.png", 1440, "dark")
    paper = browser.look(opened, pages["full"], tmp_path / "paper.png", 718, "dark", "print")  # A4
    assert shades(light.paper) - shades(light.ink) > 150
    assert shades(dark.ink) - shades(dark.paper) > 150
    assert (paper.paper, paper.ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert paper.width <= 718


def test_the_pictures_are_drawn(opened, pages, tmp_path) -> None:
    """A page that stayed empty would be of one colour."""
    from PIL import Image

    browser.look(opened, pages["full"], tmp_path / "drawn.png", 1440)
    picture = Image.open(io.BytesIO((tmp_path / "drawn.png").read_bytes())).convert("RGB")
    assert picture.height > 3000
    assert len(picture.quantize(64).getcolors()) > 30

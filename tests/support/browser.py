"""A headless Chromium that looks at a page as a person would."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Look:
    """What a page was like."""

    errors: list[str]
    """On the console, or raised by a script."""
    asked: list[str]
    """Addresses beside the page's own."""
    width: int
    """Of the content; wider than the window is an overflow."""
    cut: list[str]
    """Text that its box does not hold."""
    paper: str
    ink: str


def why_not() -> str | None:
    """Why there is no browser here."""
    if _program() is None:
        return "no Chromium here; tests/support/install_chromium.sh installs Debian's"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed; pip install -e '.[test]' brings it"
    return None


def _program() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=_program(), args=["--no-sandbox"] if os.getuid() == 0 else [], timeout=120_000
        )
        yield opened
        opened.close()


_CUT = """
() => [...document.querySelectorAll('body *')].filter(e => {
  const s = getComputedStyle(e);
  return e.childElementCount === 0 && e.textContent.trim() && !(e instanceof SVGElement)
    && e.scrollWidth > e.clientWidth + 1 && s.display !== 'inline' && s.overflowX === 'visible' && e.clientWidth > 0;
}).map(e => e.textContent.trim().slice(0, 80))
"""


def look(
    opened: Any,
    page: Path,
    picture: Path,
    width: int,
    scheme: Literal["light", "dark"] = "light",
    media: str = "screen",
) -> Look:
    """Open a page in a window of that width and keep a picture of the whole of it."""
    context = opened.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.emulate_media(media=media)
    tab.goto(page.absolute().as_uri())
    tab.wait_for_load_state()
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    colours = "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    paper, ink = tab.evaluate(colours)
    seen = Look(
        errors,
        [url for url in asked if url != page.absolute().as_uri()],
        tab.evaluate("document.documentElement.scrollWidth"),
        tab.evaluate(_CUT),
        paper,
        ink,
    )
    tab.screenshot(path=str(picture), full_page=True)
    context.close()
    return seen

"""From matplotlib to SVG that lives inside a page: small, repeatable, and in the page's own colours.

matplotlib draws with stand-in colours; `inline` replaces them by CSS variables, so that one drawing serves a
light and a dark page. Text stays text in the page's font, ids carry the figure's name so that no two figures
of a page collide, and nothing depends on the date or on the user's matplotlib settings.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, GRID = "#010101", "#010102", "#010103"
TEACHER, ENSEMBLE, STUDENT, CONTROL, WRONG = "#010104", "#010105", "#010106", "#010107", "#010108"
PAPER, JOINT = "#010109", "#010110"

PALETTE = {
    INK: "currentColor",
    MUTED: "var(--muted, #6b7280)",
    GRID: "var(--grid, #8884)",
    TEACHER: "var(--teacher, #4f9a8b)",
    ENSEMBLE: "var(--ensemble, #3f73b5)",
    STUDENT: "var(--student, #c8591b)",
    CONTROL: "var(--control, #84808f)",
    WRONG: "var(--wrong, #c03b4b)",
    PAPER: "var(--paper, #fff)",
    JOINT: "var(--joint, #8a5aa8)",
}
"""What each stand-in becomes; the fallbacks serve a figure that is taken out of its page."""

SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdscale",
    "text.parse_math": False,  # class names may hold dollar signs
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.3,
    "figure.facecolor": "none",
    "path.simplify": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save inside this: the report's settings on top of matplotlib's defaults, then the user's again."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's fonts draw it, not matplotlib
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def figure(width: float = 4.6, height: float = 3.1) -> Figure:
    """An empty figure, in inches; drawn narrow, so that its text can still be read on a telephone."""
    return Figure(figsize=(width, height), layout="constrained")


def inline(drawn: Figure, name: str, alternative: str) -> str:
    """The figure as an `<svg>` element; `alternative` is what a screen reader says instead of it."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r">\s+<", "><", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name, used), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    root = (
        f'<svg role="img" aria-label="{escape(alternative)}" {box[0]} '
        'style="stroke-linejoin: round; stroke-linecap: butt">'
    )
    return root + text[text.index(">") + 1 :].strip()


def _tag(tag: str, name: str, used: set[str]) -> str:
    """One tag, smaller and in the page's terms; what stands between tags is the user's text and stays."""
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag).replace("url(#", f"url(#{name}-")
    for stand_in, colour in PALETTE.items():
        tag = tag.replace(stand_in, colour)
    return tag

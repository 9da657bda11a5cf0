"""The form that all reports share: how a template becomes a page, and what a table looks like in the terminal."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def filled(template: str, **values: Any) -> str:
    """A page of this package's templates; a name that the template uses and nobody gave is an error."""
    environment = Environment(
        loader=PackageLoader("kdscale.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def grid(title: str | None = None, caption: str | None = None) -> Table:
    """A table without columns yet; neither text is read as markup."""
    return Table(
        title=Text(title) if title else None,
        caption=Text(caption) if caption else None,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )

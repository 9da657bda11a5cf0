"""`kdscale study`: the papers' experiments, each at one command."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from kdscale.errors import UserError
from launcher.options import Json, Overrides


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: kdscale study list; kdscale study hinton-mnist --quick data.path=FOLDER")(study)


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study, or list, which shows them.")],
    overrides: Overrides = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Repetitions.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small form that ends in under three minutes.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; runs/studies/NAME by default.")] = None,
    as_json: Json = False,
) -> None:
    """Repeat an experiment of a paper: its numbers beside ours, what it claims checked, and a page with figures."""
    from kdscale.studies import catalogue

    if name == "list":
        _list(catalogue.STUDIES, as_json)
        return
    known = catalogue.named(name)
    from kdscale.report import study as report
    from kdscale.studies.lab import MEASURED, Lab

    folder = out or Path("runs/studies") / (f"{name}-quick" if quick else name)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MEASURED).is_dir():
        raise UserError(f"{folder}: not the directory of a study and not empty; take another --out")
    with _one_connection() as bring:
        lab = Lab(known, folder, bring, quick, seeds, overrides or (), lambda text: print(text, file=sys.stderr))
        (folder / MEASURED).mkdir(parents=True, exist_ok=True)
        concluded = lab.conclude(known.module.measure(lab))
    page = report.render(folder, concluded)
    if as_json:
        print(json.dumps(concluded))
        return
    from rich.console import Console

    for grid in report.tables(concluded):
        Console(width=None if sys.stdout.isatty() else 120).print(grid)
    print(f"page: {page}")


@contextmanager
def _one_connection() -> Iterator[Callable[..., Any]]:
    """A way to bring runs up to a stage that connects to Ray once for all of them."""
    from launcher import local
    from launcher.bring import bring

    with ExitStack() as stack:
        connected = False

        def connect(cluster: Any, stopped: Callable[[], bool]) -> AbstractContextManager[None]:
            nonlocal connected
            if connected and not _alive():
                stack.close()
                connected = False
            if not connected:
                stack.enter_context(local.connection(cluster, stopped))
                connected = True
            return nullcontext()

        def bring_up(last: str, recipe: Any, folder: Path, stack: bool = False) -> Any:
            def then(run: Any, shown: Any) -> None:
                if stack:
                    from kdscale.pipeline import features

                    features.work(run, lambda: connect(recipe.cluster, lambda: False), shown)

            return bring(last, recipe, folder, then=then, connect=connect)

        yield bring_up


def _alive() -> bool:
    """Whether a node of the Ray that is connected is left; on a machine that is very busy Ray may give up its only one."""
    from kdscale.cluster import capacity

    return capacity().cpus > 0


def _list(studies: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps([one._asdict() for one in studies]))
        return
    width = max(len(one.name) for one in studies)
    for one in studies:
        print(f"{one.name:<{width}}  {one.quick} quick, {one.full} full: {one.claim} ({one.source})")

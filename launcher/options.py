"""Options and habits that the verbs of the command line share."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from kdscale.errors import UserError

STAGES = Literal["run", "data", "teachers", "logits", "student", "specialists", "evaluate", "report"]
AFTER = "kdscale.after"


class PassingOn(TyperCommand):
    """What comes after ``--`` replaces values of the recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        cut = args.index("--") if "--" in args else len(args)
        ctx.meta[AFTER] = args[cut + 1 :]
        return super().parse_args(ctx, args[:cut])


def leftovers(ctx: Any) -> None:
    """Raises:
    UserError: words beside the options that no ``--`` comes before.
    """
    if ctx.args:
        raise UserError(f"'{ctx.args[0]}' belongs to no option; values that replace the recipe's come last, after --")


class DefaultGroup(TyperGroup):
    """A group that is a verb itself: what is not the name of a subcommand goes to the subcommand `run`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args or args[0] in self.commands:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(args[0], self.commands, n=1)
        if near and not Path(args[0]).exists():
            raise UserError(f"kdscale {ctx.info_name} has no verb {args[0]}; did you mean {near[0]}?")
        return super().resolve_command(ctx, ["run", *args])


RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file that says everything about the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.FIELD=VALUE]...", help="Values that replace the recipe's.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory, or its s3:// URL; runs/NAME by default.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Set the run directory aside and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")]


def only_folder(out: Path | None, what: str) -> None:
    """Raises:
    UserError: a run directory in an object store, where that is not served.
    """
    from kdscale import mirror

    if out is not None and mirror.is_url(out):
        raise UserError(
            f"{out}: {what} needs a run directory in a folder, and this is an object store; give another --out"
        )


@contextmanager
def bars() -> Iterator[Any]:
    from rich.console import Console

    from kdscale.tracking.progress import Bars

    with Bars(Console(stderr=True)) as shown:
        yield shown


def run_folder(run: Path) -> Path:
    """A run directory as it was given, or that of a recipe."""
    from kdscale import mirror
    from kdscale import recipe_files as recipes

    if mirror.is_url(run):
        return mirror.local(run)
    return Path("runs") / recipes.load(run).name if run.is_file() else run

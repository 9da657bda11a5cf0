"""The `kdscale` command: thin verbs over the pipeline.

Heavy libraries are imported inside the verbs, so that `--help` answers at once.
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from kdscale import __version__
from kdscale.errors import RunFailure, Stopped, UserError
from launcher import studies, submit
from launcher.bring import bring
from launcher.options import (
    DefaultGroup,
    DryRun,
    Fresh,
    Json,
    Out,
    Overrides,
    RecipeFile,
    bars,
    only_folder,
    run_folder,
)
from launcher.store import logits_app
from launcher.tracking import wandb_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn an ensemble of neural networks into one model that can be served.",
    epilog="Example: kdscale run configs/quickstart.yaml student.temperature=8",
)
data_app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make the shards of a recipe, or import a dataset by itself.",
    epilog="Example: kdscale data configs/quickstart.yaml; kdscale data import --from folder pictures/ shards/",
)
app.add_typer(data_app, name="data")
app.add_typer(logits_app, name="logits")
app.add_typer(wandb_app, name="wandb")
submit.add_to(app)
studies.add_to(app)


def main() -> None:
    """Run the command line; a user's mistake exits with 2, a failure with 1, both with one sentence."""
    debug = bool(os.environ.get("KDSCALE_DEBUG"))
    try:
        code = app(standalone_mode=False)
    except (UserError, RunFailure, Stopped, OSError) as error:
        if debug:
            raise
        _say(_sentence(error))
        sys.exit(_code(error))
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own, whichever of its versions is installed
            sys.exit(_misread(error))
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {_sentence(error)} (KDSCALE_DEBUG=1 shows where)")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _misread(error: Any) -> int:
    """Say in a sentence what the parser does not take; a group that was called alone shows its help."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    elif context is None or message.endswith("?"):
        _say(message)
    else:
        _say(f"{message.rstrip('.')}; see {context.command_path} --help")
    return int(error.exit_code)


def _code(error: Exception) -> int:
    if isinstance(error, Stopped):
        return 130 if error.interrupted else 143
    return 2 if isinstance(error, UserError) else 1


def _sentence(error: Exception) -> str:
    if isinstance(error, Stopped):
        return "stopped; everything is saved, and the same command goes on from there"
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        return f"{what}{where}; mend that and give the same command again: what is finished is kept"
    return " ".join(str(error).split())


def _say(sentence: str) -> None:
    print(f"kdscale: {sentence}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"kdscale {__version__}")
        raise typer.Exit


def _stage_verb(group: typer.Typer, name: str, last: str, help_text: str, example: str | None = None) -> None:
    """Add a verb that brings a recipe's run up to a stage; without an example it is a group's hidden default."""

    def verb(
        recipe: RecipeFile,
        overrides: Overrides = None,
        out: Out = None,
        dry_run: DryRun = False,
        fresh: Fresh = False,
        as_json: Json = False,
    ) -> None:
        _advance(last, recipe, overrides, out, dry_run, fresh, as_json)

    epilog = f"Example: kdscale {name} {example}"
    group.command(name, help=help_text, hidden=example is None, epilog=epilog)(verb)


QUICK = "configs/quickstart.yaml"
BEFORE = "(and do whatever comes before)"
_stage_verb(
    app,
    "run",
    "report",
    "Do everything that a recipe says, skipping what is already done.",
    f"{QUICK} student.temperature=8 --out runs/t8",
)
_stage_verb(data_app, "run", "data", "Make the shards and the manifest of a recipe.")
_stage_verb(app, "teachers", "teachers", f"Train the ensemble's members {BEFORE}.", f"{QUICK} teachers.count=10")
_stage_verb(logits_app, "run", "logits", f"Write the members' logits into the store {BEFORE}.")


@app.command(
    help=f"Train the student and its control {BEFORE}; with --ranks env on ranks that a launcher has started.",
    epilog=f"Example: kdscale student {QUICK} student.temperature=8",
)
def student(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    ranks: Annotated[
        str | None,
        typer.Option(metavar="env", help="Join the ranks that torchrun, deepspeed or srun started, instead of Ray's."),
    ] = None,
    as_json: Json = False,
) -> None:
    if ranks is None or dry_run:
        _advance("student", recipe, overrides, out, dry_run, fresh, as_json)
        return
    if ranks != "env" or fresh:
        raise UserError(
            f"--ranks {ranks}: take env, and no --fresh, which would set aside what the ranks are to learn from"
        )
    from launcher.ranks import train

    only_folder(out, "kdscale student --ranks")
    train(recipe, overrides, out)


_stage_verb(
    app,
    "specialists",
    "specialists",
    f"Find the classes that the generalist confuses and train specialists of them {BEFORE}.",
    "configs/specialists_100.yaml specialists.count=12",
)


@app.command(
    help=f"Measure every model on the test split {BEFORE}; with --fusion compare the ways to fuse the members.",
    epilog=f"Example: kdscale evaluate {QUICK} --fusion all",
)
def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    fusion: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="all, or names such as plurality,borda: print what each makes of the test."),
    ] = None,
    as_json: Json = False,
) -> None:
    if fusion is None or dry_run:
        _advance("evaluate", recipe, overrides, out, dry_run, fresh, as_json)
        return
    from kdscale import recipe_files as recipes
    from kdscale.ensemble import comparison
    from kdscale.pipeline import comparing, features
    from launcher import local

    only_folder(out, "kdscale evaluate --fusion")
    rules = comparison.named(fusion)  # before an hour of training, not after
    asked = recipes.load(recipe, overrides)

    def stack(opened: Any, shown: Any) -> None:
        if comparison.FEATURES in rules:
            features.work(opened, lambda: local.connection(asked.cluster), shown)

    opened = bring("evaluate", asked, out or Path("runs") / asked.name, fresh, then=stack)
    compared = comparing.compare(opened, rules)
    comparing.save(opened, compared)
    if as_json:
        print(json.dumps(compared))
    else:
        from kdscale.report.fusion import table

        _show(table(compared))


_stage_verb(app, "report", "report", f"Write the HTML report {BEFORE}.", QUICK)


@data_app.command("import", epilog="Example: kdscale data import --from idx downloads/mnist shards/mnist")
def data_import(
    path: Annotated[str, typer.Argument(metavar="PATH", help="File, folder or URL; - for digits.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards and the manifest.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="KIND",
            help="digits, digit_strings, idx, folder, npz, omniglot, parquet, shards or package.module:function.",
        ),
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Fields of the recipe's data section.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the splits and shards.")] = 0,
    as_json: Json = False,
) -> None:
    """Import a dataset into WebDataset shards with a manifest."""
    import yaml
    from pydantic import ValidationError

    from kdscale import recipe
    from kdscale import recipe_files as recipes
    from kdscale.data.importing import import_dataset

    fields: dict[str, Any] = {"source": source, "path": None if path == "-" else path}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}' is not of the form field=value")
        try:
            fields[name.removeprefix("data.")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"'{setting}': the value is not valid YAML; quote it") from None
    try:
        section = recipe.Data.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"kdscale data import: {recipes.explain(error, recipe.Data)}") from None
    with bars() as shown:
        manifest = import_dataset(section, seed, out, lambda done, total: shown.show("samples", done, total))
    counts = {split: manifest.samples(split) for split in manifest.splits}
    if as_json:
        print(
            json.dumps(
                {"out": str(out), "classes": manifest.classes, "samples": counts, "fingerprint": manifest.fingerprint}
            )
        )
    else:
        listed = ", ".join(f"{count} {split}" for split, count in counts.items())
        print(f"{out}: {len(manifest.classes)} classes, {listed} samples, fingerprint {manifest.fingerprint[:12]}")


@app.command(epilog="Example: kdscale status runs/quickstart --json")
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")],
    once: Annotated[bool, typer.Option("--once", help="Plain lines, also on a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run has done and is doing, and how its jobs on a cluster stand; on a terminal until it is finished."""
    from rich.console import Console

    from launcher import status as view

    folder = run_folder(run)
    console = Console()
    if as_json:
        print(json.dumps(view.look(folder)))
    elif console.is_terminal and not once:
        view.watch(folder, console)
    else:
        print("\n".join(view.lines(view.look(folder))))


@app.command(epilog="Example: kdscale compare runs/quickstart runs/t8 --page runs/compared.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories that are evaluated.")],
    page: Annotated[
        Path | None, typer.Option("--page", help="The page to write; compared.html beside the first run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side: their models, costs and times, and in what their recipes differ; as a table and a page."""
    from kdscale.pipeline.evaluate import RESULTS
    from kdscale.pipeline.run import load_recipe
    from kdscale.report import comparison

    folders = [run_folder(run) for run in runs]
    for folder in folders:
        if not (folder / RESULTS).exists():
            load_recipe(folder)  # says so where this is no run at all
    compared = comparison.read(folders)
    path = page or folders[0].parent / "compared.html"
    if path.is_dir():
        raise UserError(f"--page {path}: is a directory; give the file to write, such as {path / 'compared.html'}")
    comparison.write(compared, path)
    if as_json:
        print(json.dumps(comparison.as_json(compared)))
        return
    for table in comparison.tables(compared):
        _show(table)
    print(f"page: {path}")


@app.command(epilog="Example: kdscale export runs/quickstart student --to onnx")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")],
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="student, control, student-seed-3, or a member such as seed-0.")
    ] = "student",
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="safetensors, onnx or torch-export.")] = "onnx",
    out: Annotated[Path | None, typer.Option("--out", help="The file; RUN/export/MODEL by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a finished model into one file that is ready to be served, and run it on the test split."""
    from kdscale.export.formats import FORMATS
    from kdscale.pipeline.exporting import export as write
    from kdscale.pipeline.run import Run, load_recipe

    chosen = next((known for known in FORMATS if known == to), None)
    if chosen is None:
        raise UserError(f"--to {to}: no such format; take {', '.join(FORMATS)}")
    folder = run_folder(run)
    made = write(Run(folder.resolve(), load_recipe(folder)), model, chosen, out)
    if as_json:
        seen = {"path": str(made.path), "bytes": made.bytes, "samples": made.samples, "same": made.same}
        print(json.dumps({**seen, "difference": made.difference, "about": made.about.model_dump(mode="json")}))
        return
    print(
        f"{made.path}: {made.bytes / 1e6:.2f} MB; on {made.samples} test samples its logits differ from the trained "
        f"model's by at most {made.difference:.1g}, {made.same} of {made.samples} have the same class"
    )


def _advance(
    last: str, path: str, overrides: list[str] | None, out: Path | None, dry_run: bool, fresh: bool, as_json: bool
) -> None:
    """Bring the run of a recipe up to a stage, or print the plan for it."""
    from kdscale import mirror
    from kdscale import recipe_files as recipes

    recipe = recipes.load(path, overrides)
    if out is not None and mirror.is_url(out):
        if fresh:
            raise UserError(f"--fresh: a run in an object store is not set aside; take another --out than {out}")
        whole = mirror.Mirror(str(out))
        with nullcontext(mirror.local(out)) if dry_run else mirror.active(whole) as folder:
            _advance_in(folder, last, recipe, dry_run, fresh, as_json)
        return
    _advance_in(out or Path("runs") / recipe.name, last, recipe, dry_run, fresh, as_json)


def _advance_in(folder: Path, last: str, recipe: Any, dry_run: bool, fresh: bool, as_json: bool) -> None:
    from kdscale.pipeline import run as runs

    if dry_run:
        changes = [] if fresh else runs.check(folder, recipe)
        _plan(runs.Run(folder / ".fresh" if fresh else folder, recipe), folder, changes, last, as_json)
        return
    from kdscale.pipeline import evaluate
    from kdscale.pipeline import report as report_stage

    opened = bring(last, recipe, folder, fresh)
    if last in ("evaluate", "report"):
        _print_results(json.loads((opened.folder / evaluate.RESULTS).read_text()), as_json)
        if last == "report" and not as_json:
            print(f"report: {folder / report_stage.PAGE}")
    elif as_json:
        from kdscale.pipeline.overview import overview

        print(json.dumps(overview(opened.folder)))


def _print_results(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(results))
        return
    from kdscale.report.table import gains, table

    _show(table(results))
    if (grid := gains(results)) is not None:
        _show(grid)


def _show(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _plan(run: Any, folder: Path, changes: list[str], last: str, as_json: bool) -> None:
    from kdscale.pipeline import plan
    from kdscale.pipeline.stages import STAGES

    cores = run.recipe.cluster.cpus or os.cpu_count() or 1
    made = plan.make(run, cores)
    wanted = STAGES[: STAGES.index(last) + 1]
    steps = [step for step in made.steps if step.stage in wanted]
    if as_json:
        shown = {**made.as_json(), "run": str(folder), "changes": changes}
        shown["steps"] = [step for step in shown["steps"] if step["stage"] in wanted]
        print(json.dumps(shown))
        return
    print(f"plan for {folder}")
    for change in changes:
        print(f"  changed  {change}")
    for step in steps:
        about = (
            ""
            if step.seconds is None or not step.run
            else f"about {step.seconds:.0f} s"
            if step.seconds >= 1
            else "at once"
        )
        print(f"  {step.stage:<12}run {step.run:>4}  reuse {step.reuse:>4}  {step.unit:<22}{about}".rstrip())
    if made.store_bytes is not None:
        print(f"  logit store: about {made.store_bytes / 1e6:.1f} MB")

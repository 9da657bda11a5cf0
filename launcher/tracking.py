"""`kdscale wandb`: what was logged offline is sent, and the dashboard made."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kdscale.errors import RunFailure, UserError
from launcher.options import Json, run_folder

wandb_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Send to Weights & Biases what was logged offline, and make its dashboard.",
    epilog="Example: kdscale wandb sync runs/quickstart; kdscale wandb dashboard --project kdscale",
)
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="The server; the recipe's, WANDB_BASE_URL, or W&B's own.")
]


@wandb_app.command(epilog="Example: kdscale wandb sync runs/quickstart")
def sync(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")],
    base_url: BaseUrl = None,
    as_json: Json = False,
) -> None:
    """Send what the jobs of a run have logged offline or could not deliver, and their lineage; each thing once."""
    from kdscale import mirror
    from kdscale.pipeline import lineage
    from kdscale.pipeline.run import LOCK, Run, load_recipe
    from kdscale.tracking import publishing, reaching, syncing

    folder = run_folder(run).resolve()
    recipe = load_recipe(folder)
    settings = recipe.tracking.wandb
    if base_url is not None:
        settings = settings.model_copy(update={"base_url": base_url})
    if settings.mode != "off" or syncing.logs(folder):
        reaching.knock(settings.base_url)
    logs, busy = syncing.sync(folder, settings, folder / LOCK)
    known = lineage.note(Run(folder, recipe))
    if not logs and settings.mode == "off":
        raise UserError(f"{run}: nothing was logged for W&B; train with tracking.wandb.mode=offline or online")
    jobs, rows = publishing.publish(folder, recipe, settings, known)
    if mirror.is_url(run):
        mirror.local(run)  # the marks of what was sent
    if as_json:
        print(json.dumps({"logs": logs, "at_work": busy, "jobs": jobs, "rows": rows}))
        return
    print(f"sent: {logs} logs, {rows} rows that had not arrived, and the lineage of {jobs} jobs")
    if busy:
        print(f"not sent: {busy} logs of jobs that are at work; give the same command again when they are finished")


@wandb_app.command(epilog="Example: kdscale wandb dashboard configs/quickstart.yaml --dry-run")
def dashboard(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Recipe or run whose project, entity and server to take.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project; the recipe's, or kdscale.")] = None,
    entity: Annotated[
        str | None, typer.Option("--entity", help="User or team; the recipe's, or the key's own.")
    ] = None,
    base_url: BaseUrl = None,
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="The file to make it of; configs/wandb/metrics.yaml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
) -> None:
    """Create the dashboard of a project, or bring that of the same name up to date."""
    import os

    from kdscale import recipe_files as recipes
    from kdscale.pipeline.run import load_recipe
    from kdscale.recipe import WandB
    from kdscale.tracking import dashboard as boards

    tree = boards.read(metrics)
    if recipe is None:
        settings = WandB()
    else:
        settings = (load_recipe(recipe) if recipe.is_dir() else recipes.load(str(recipe), [])).tracking.wandb
    if address := base_url or settings.base_url:
        os.environ["WANDB_BASE_URL"] = address
    project, entity = project or settings.project, entity or settings.entity
    if dry_run:
        print(json.dumps(boards.spec(boards.workspace(tree, entity or "ENTITY", project)), indent=2))
        return
    made = boards.workspace(tree, entity or _own_entity(), project)
    was_there = boards.save(made)
    print(f"{'updated' if was_there else 'created'}: dashboard {made.name} of {made.entity}/{project}, {made.url}")


def _own_entity() -> str:
    import wandb

    try:
        entity = wandb.Api(timeout=20).default_entity
    except wandb.errors.UsageError:
        raise UserError("there is no key for W&B; set WANDB_API_KEY, or see the dashboard with --dry-run") from None
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise RunFailure(
            f"W&B cannot be asked whose key this is ({first}); see that the key and the server's address are right "
            "(WANDB_API_KEY, --base-url) and that this machine reaches it"
        ) from None
    if not entity:
        raise UserError("the W&B key has no entity of its own; give --entity")
    return str(entity)

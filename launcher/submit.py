"""`kdscale submit`: a run as a job of a cluster; and `logs` and `cancel`, which look after it."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdscale.errors import UserError
from launcher.options import AFTER, STAGES, Fresh, Json, PassingOn, RecipeFile, run_folder
from launcher.ray_job import verbs

submit_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Start a run as a job of a cluster.",
    epilog="Example: kdscale submit slurm configs/quickstart.yaml --nodes 2 --time 1:00:00; "
    "kdscale submit ray configs/quickstart.yaml --address http://HEAD:8265",
)


@submit_app.command(
    cls=PassingOn,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Example: kdscale submit slurm configs/quickstart.yaml --nodes 4 --gpus-per-node 8 --time 24:00:00 "
    "--partition gpu --account me --qos=high -- teachers.count=40",
)
def slurm(
    ctx: typer.Context,
    recipe: RecipeFile,
    nodes: Annotated[int, typer.Option("--nodes", "-N", help="Nodes.")] = 1,
    gpus_per_node: Annotated[int | None, typer.Option("--gpus-per-node", help="GPUs on each.")] = None,
    time: Annotated[str | None, typer.Option("--time", "-t", help="Time limit of one start, as 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", "-p", help="Partition.")] = None,
    account: Annotated[str | None, typer.Option("--account", "-A", help="Account.")] = None,
    name: Annotated[str | None, typer.Option("--job-name", "-J", help="Name of the job; the recipe's.")] = None,
    stage: Annotated[STAGES, typer.Option("--stage", help="The verb of kdscale that the job gives.")] = "run",
    out: Annotated[Path | None, typer.Option("--out", help="Run directory, shared by all nodes; runs/NAME.")] = None,
    grace: Annotated[int, typer.Option("--grace", help="Seconds for saving before the time limit.")] = 120,
    requeue: Annotated[bool, typer.Option("--requeue/--no-requeue", help="Go on in the queue when saved.")] = True,
    on_lost_node: Annotated[
        Literal["continue", "requeue"],
        typer.Option("--on-lost-node", help="Go on with the nodes that are left, or requeue the job."),
    ] = "continue",
    modules: Annotated[list[str] | None, typer.Option("--module", help="Environment module to load; repeat.")] = None,
    setup: Annotated[
        list[str] | None, typer.Option("--setup", help="Line of shell before anything starts; repeat.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for all processes; repeat.")] = None,
    interface: Annotated[str | None, typer.Option("--interface", help="Network interface, such as ib0.")] = None,
    apptainer: Annotated[str | None, typer.Option("--apptainer", help="Image in which kdscale and Ray are.")] = None,
    pyxis: Annotated[str | None, typer.Option("--pyxis", help="The same for sites with pyxis and enroot.")] = None,
    mounts: Annotated[list[str] | None, typer.Option("--mount", help="FROM[:TO] in the container; repeat.")] = None,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Write a script for sbatch, keep it with the run, and submit it. Other options are passed on to sbatch."""
    from kdscale import recipe_files as recipes
    from kdscale.files import digest, write_text
    from kdscale.pipeline import run as runs
    from launcher.slurm import controller, jobs
    from launcher.slurm.options import Options, check, passed_on
    from launcher.slurm.script import render

    if recipe.startswith("-"):
        raise UserError(f"{recipe}: is an option of sbatch's, and such come after the recipe; give RECIPE first")
    loaded = recipes.load(recipe, ctx.meta[AFTER])
    if loaded.cluster.address:
        raise UserError(
            f"cluster.address is {loaded.cluster.address}, and the job starts a Ray of its own; add -- cluster.address=null"
        )
    if apptainer and pyxis:
        raise UserError("--apptainer and --pyxis: a job runs in one container; leave one out")
    if mounts and not (apptainer or pyxis):
        raise UserError("--mount: is for a container; name its image with --apptainer or --pyxis")
    folder = (out or Path("runs") / loaded.name).absolute()
    kept = folder / runs.JOBS / f"recipe-{digest(loaded.model_dump(mode='json'))[:8]}.yaml"
    container: Literal["apptainer", "pyxis"] | None = "apptainer" if apptainer else "pyxis" if pyxis else None
    script = render(
        check(
            Options(
                recipe=str(kept),
                run=str(folder),
                verb=stage,
                name=name or loaded.name,
                output=str(folder / runs.JOBS / f"{jobs.PREFIX}%j.log"),
                nodes=nodes,
                gpus_per_node=gpus_per_node,
                time=time,
                partition=partition,
                account=account,
                sbatch=passed_on(ctx.args),
                grace=grace,
                requeue=requeue,
                on_lost_node=on_lost_node,
                modules=tuple(modules or ()),
                setup=tuple(setup or ()),
                env=tuple(env or ()),
                path=None if container else _commands(),
                interface=interface,
                container=container,
                image=apptainer or pyxis,
                mounts=tuple(mounts or ()),
            )
        )
    )
    if not fresh:
        runs.check(folder, loaded)
    if dry_run:
        print(script, end="")
        return
    controller.check_here()
    if fresh and folder.exists():
        runs.check_is_run(folder)
        with runs.only_driver(folder):
            print(f"{folder} set aside as {runs.set_aside(folder)}", file=sys.stderr)
    if not runs.has_driver(folder):
        runs.open_run(folder, loaded)
    written = kept.with_name(f"{stage}.sbatch")
    write_text(kept, loaded.dump())
    write_text(written, script)
    job = jobs.keep(folder, controller.submit(written), written, kept)
    if as_json:
        print(json.dumps({"job": job.id, "run": str(folder), "script": str(written), "log": str(job.log)}))
        return
    shown = os.path.relpath(folder)
    print(f"job {job.id}: {os.path.relpath(job.folder / written.name)}")
    print(f"follow it with:  kdscale logs {shown} --follow")
    print(f"how it stands:   kdscale status {shown}")
    print(f"end it:          kdscale cancel {shown}")


def _commands() -> str | None:
    """The folder with the kdscale and ray commands that belong to this Python."""
    folder = Path(sys.executable).parent
    return str(folder) if (folder / "ray").exists() else None


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")],
    job: Annotated[str | None, typer.Option("--job", help="Id of the job; the newest by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a job of a run has printed."""
    from launcher import jobs

    jobs.show(run_folder(run), job, follow)


def cancel(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the recipe of one in runs/.")],
    job: Annotated[str | None, typer.Option("--job", help="Id of the job; all of the run by default.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not save what is under way.")] = False,
) -> None:
    """End the jobs of a run: they save and go, and the same submission goes on from there."""
    from launcher import jobs

    for said in jobs.end(run_folder(run), job, now):
        print(said)


def add_to(app: typer.Typer) -> None:
    verbs.add_to(submit_app)
    app.add_typer(submit_app, name="submit")
    app.command(epilog="Example: kdscale logs runs/quickstart --follow")(logs)
    app.command(epilog="Example: kdscale cancel runs/quickstart")(cancel)
    app.command("stop", hidden=True, help="The same as cancel.", epilog="Example: kdscale stop runs/quickstart")(cancel)

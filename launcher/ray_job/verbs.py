"""`kdscale submit ray` and `kdscale submit kuberay`."""

import json
import os
import shlex
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from kdscale.errors import UserError
from launcher.options import AFTER, STAGES, Json, PassingOn, RecipeFile, leftovers

Env = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for all processes; repeat.")]
Pip = Annotated[list[str] | None, typer.Option("--pip", help="Requirement to install for the job with pip; repeat.")]
Uv = Annotated[list[str] | None, typer.Option("--uv", help="The same with uv, which is quicker; repeat.")]
Stage = Annotated[STAGES, typer.Option("--stage", help="The verb of kdscale that the job gives.")]
WorkingDir = Annotated[Path, typer.Option("--working-dir", help="Where the user's own modules lie.")]


def ray(
    ctx: typer.Context,
    recipe: RecipeFile,
    address: Annotated[
        str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="Ray's dashboard: http://HEAD:8265.")
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="Run directory: a path that all nodes of the cluster share, or s3://; runs/NAME here."
        ),
    ] = None,
    working_dir: WorkingDir = Path("."),
    pip: Pip = None,
    uv: Uv = None,
    env: Env = None,
    stage: Stage = "run",
    token: Annotated[
        Path | None, typer.Option("--token", help="File with the cluster's token; RAY_AUTH_TOKEN_PATH by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Give a run to a Ray that runs elsewhere, through its Job API. What comes after -- replaces values of the recipe."""
    from kdscale import mirror
    from kdscale import recipe_files as recipes
    from kdscale.pipeline import run as runs
    from launcher.ray_job import client, jobs, parcel

    leftovers(ctx)
    loaded = recipes.load(recipe, ctx.meta[AFTER])
    place = client.check(client.Place(address.rstrip("/"), token))
    if loaded.cluster.address:
        raise UserError(
            f"cluster.address is {loaded.cluster.address}, and the job joins the Ray that runs it; add -- cluster.address=null"
        )
    run = _place(out, loaded.name)
    folder = mirror.local(run)
    runs.check(folder, loaded)
    runtime_env = environment(pip, uv, env)
    entrypoint = command(stage, run)
    with tempfile.TemporaryDirectory(prefix="kdscale-job-") as aside:
        modules, elsewhere = parcel.pack(Path(aside), loaded, working_dir.absolute())
        if dry_run:
            print(f"to {place.address}: {entrypoint}")
            for name in (parcel.RECIPE, *modules):
                print(f"  sends {name}")
            for name in elsewhere:
                print(f"  expects {name} on the nodes: it is not in {working_dir}")
            for name, value in runtime_env.items():
                print(f"  {name}: {value}")
            return
        name = f"{loaded.name}-{uuid.uuid4().hex[:8]}"
        if not runs.has_driver(folder):
            runs.open_run(folder, loaded)
        kept = jobs.keep(folder, name, place, Path(aside) / parcel.RECIPE, {"modules": modules})
        about = {"kdscale": "run", "run": run}
        try:
            client.submit(place, name, entrypoint, {**runtime_env, "working_dir": aside}, about)
        except BaseException:
            jobs.forget(kept)
            raise
    if mirror.is_url(run):
        mirror.local(run)  # the record of the job goes to the bucket
    if as_json:
        print(json.dumps({"job": name, "address": place.address, "run": run}))
        return
    shown = run if mirror.is_url(run) else os.path.relpath(folder)
    print(f"job {name} at {place.address}: sent {', '.join((parcel.RECIPE, *modules))}")
    if elsewhere:
        print(f"expected there:  {', '.join(elsewhere)}, not in {working_dir}")
    print(f"follow it with:  kdscale logs {shown} --follow")
    print(f"how it stands:   kdscale status {shown}")
    print(f"end it:          kdscale cancel {shown}")


def kuberay(
    ctx: typer.Context,
    recipe: RecipeFile,
    image: Annotated[str, typer.Option("--image", help="Image with kdscale and Ray.")],
    claim: Annotated[
        str, typer.Option("--claim", help="PersistentVolumeClaim (ReadWriteMany) that holds run directories and data.")
    ],
    mount: Annotated[str, typer.Option("--mount", help="Where the claim is mounted in every pod.")] = "/shared",
    out: Annotated[str | None, typer.Option("--out", help="Run directory; MOUNT/runs/NAME.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Pods beside the head.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus-per-worker", help="CPUs of each.")] = 4,
    gpus: Annotated[int, typer.Option("--gpus-per-worker", help="GPUs of each.")] = 0,
    memory: Annotated[str, typer.Option("--memory-per-worker", help="Memory of each.")] = "16Gi",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace.")] = None,
    retries: Annotated[int, typer.Option("--retries", help="New clusters after a failure; the run goes on.")] = 2,
    working_dir: WorkingDir = Path("."),
    pip: Pip = None,
    uv: Uv = None,
    env: Env = None,
    stage: Stage = "run",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifest, which kubectl apply -f - takes.")
    ] = False,
) -> None:
    """Render a RayJob for KubeRay: a Ray of its own for the run, with the recipe and the user's modules in a ConfigMap."""
    from kdscale import recipe_files as recipes
    from launcher.ray_job import kuberay as manifests
    from launcher.ray_job import parcel

    if not dry_run:
        raise UserError(
            "kdscale speaks with no Kubernetes: add --dry-run, and give what it prints to kubectl apply -f -"
        )
    leftovers(ctx)
    loaded = recipes.load(recipe, ctx.meta[AFTER])
    run = _below(mount, out or f"{mount}/runs/{loaded.name}")
    wanted = manifests.Wanted(
        name=loaded.name,
        image=image,
        claim=claim,
        mount=mount,
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        namespace=namespace,
        retries=retries,
        entrypoint=command(stage, run, manifests.SENT),
        runtime_env=environment(pip, uv, env),
    )
    with tempfile.TemporaryDirectory(prefix="kdscale-job-") as aside:
        _, elsewhere = parcel.pack(Path(aside), loaded, working_dir.absolute())
        if elsewhere:
            print(f"expected in the image: {', '.join(elsewhere)}, not in {working_dir}", file=sys.stderr)
        sys.stdout.write(manifests.render(wanted, Path(aside)))


def command(stage: str, run: str, sent: str = "") -> str:
    """What the job executes; the shell is replaced, so that a stop reaches kdscale."""
    prefix = f"cd {shlex.quote(sent)} && " if sent else ""
    return f"{prefix}exec python -m launcher {stage} recipe.yaml --out {shlex.quote(run)}"


def environment(pip: list[str] | None, uv: list[str] | None, env: list[str] | None) -> dict[str, Any]:
    """Ray's runtime_env of a job.

    Raises:
        UserError: pip and uv together, or a setting that is none.
    """
    from launcher.ray_job.client import GRACE

    if pip and uv:
        raise UserError("--pip and --uv: one of them installs for the job; leave the other out")
    settings = {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE)}
    for setting in env or []:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--env {setting}: is not of the form NAME=VALUE")
        settings[name] = value
    installed = {name: list(value) for name, value in (("pip", pip), ("uv", uv)) if value}
    return {**installed, "env_vars": settings}


def _place(out: str | None, name: str) -> str:
    """The run directory as the nodes know it.

    Raises:
        UserError: it is a URL that is no shared filesystem.
    """
    from kdscale import mirror

    out = (out or f"runs/{name}").removeprefix("file://")
    if mirror.is_url(out):
        return out
    if "://" in out:
        raise UserError(f"--out {out}: a run directory is a folder that all nodes share, or s3://, gs:// or az://")
    return str(Path(out).absolute())


def _below(mount: str, out: str) -> str:
    """The run directory of a job whose pods share what is mounted at `mount`, and nothing else.

    Raises:
        UserError: it would be lost with the pods.
    """
    from kdscale import mirror

    if not mirror.is_url(out) and not Path(os.path.normpath(out)).is_relative_to(mount):
        raise UserError(f"--out {out}: is not on the claim and would be lost with the pods; give a path below {mount}")
    return out


def add_to(app: typer.Typer) -> None:
    example = "Example: kdscale submit ray configs/quickstart.yaml --address http://head:8265 --out /shared/runs/quick"
    app.command(cls=PassingOn, context_settings={"allow_extra_args": True}, epilog=f"{example} -- teachers.count=10")(
        ray
    )
    example = "Example: kdscale submit kuberay configs/quickstart.yaml --image me/kdscale --claim runs --dry-run"
    app.command(cls=PassingOn, context_settings={"allow_extra_args": True}, epilog=f"{example} | kubectl apply -f -")(
        kuberay
    )

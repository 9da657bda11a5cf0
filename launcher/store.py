"""The `kdscale logits` verbs that look after a store."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from kdscale.errors import RunFailure, UserError
from launcher.options import DefaultGroup, DryRun, Json, RunFolder, bars, run_folder

logits_app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write the members' logits into the store, look at the store, mend it.",
    epilog="Example: kdscale logits configs/quickstart.yaml; kdscale logits info runs/quickstart",
)


@logits_app.command("info", epilog="Example: kdscale logits info runs/quickstart --json")
def logits_info(run: RunFolder, as_json: Json = False) -> None:
    """Show what the store of a run holds and how true it is to the members."""
    from kdscale.pipeline import health

    seen = health.info(_opened(run))
    if as_json:
        print(json.dumps(seen))
        return
    fidelity, missing, sets = (seen.pop(name) for name in ("fidelity", "missing", "fused"))
    for name, value in seen.items():
        print(f"{name:<17}{_plain(value)}")
    for name, made_of in sets.items():
        print(f"{name:<19}{_plain(made_of['members'])} by {made_of['rule']}, {made_of['bytes_per_row']} bytes a row")
    print(f"{'missing':<17}{len(missing)} blocks{': ' + ', '.join(missing[:3]) if missing else ''}")
    if fidelity is not None:
        print(
            f"{'fidelity':<17}at T = {fidelity['temperature']:g} on {fidelity['rows']} rows: KL {fidelity['kl']:.2g} nats, "
            f"top-1 agreement {100 * fidelity['agreement']:.1f}%, ECE {100 * fidelity['ece_gap']:+z.2f} points, "
            f"gradient {fidelity['angle']:.2g} degrees off"
        )


@logits_app.command("plan", epilog="Example: kdscale logits plan --samples 100000000 --classes 15000 --members 10")
def logits_plan(
    samples: Annotated[int, typer.Option(min=1, help="Training samples.")],
    classes: Annotated[int, typer.Option(min=2, help="Classes.")],
    members: Annotated[int, typer.Option(min=1, help="Members of the ensemble.")] = 5,
    views: Annotated[int, typer.Option(min=1, help="Views of each sample.")] = 1,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples in a shard.")] = 10_000,
    rate: Annotated[float, typer.Option(min=0, help="Samples a second that students read, all together.")] = 10_000.0,
    price: Annotated[float, typer.Option(min=0, help="Price of a GB and month.")] = 0.023,
    as_json: Json = False,
) -> None:
    """Show what a store of this size would take, by codec; nothing is read or written."""
    from kdscale.logits.capacity import Plan

    plan = Plan(samples, classes, members, views, shard_size)
    if as_json:
        print(json.dumps(plan.as_json()))
        return
    head = (
        "codec",
        "bytes/sample",
        "store",
        "blocks",
        "of",
        "commit log",
        f"read at {rate:g}/s",
        f"a month at {price:g}/GB",
    )
    rows = [
        (
            need.codec,
            f"{need.sample:,.0f}",
            _size(need.total),
            f"{need.files:,}",
            _size(need.block),
            _size(need.log),
            f"{_size(need.sample / views * rate)}/s",
            _money(need.total / 1e9 * price),
        )
        for need in plan.needs()
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print(
            "  ".join(
                cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def _money(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.2f}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


@logits_app.command("fsck", epilog="Example: kdscale logits fsck runs/quickstart --repair")
def logits_fsck(
    run: RunFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set bad blocks aside and label their shards again.")
    ] = False,
    share: Annotated[
        float, typer.Option("--share", min=0, max=1, help="Part of the rows that members label again.")
    ] = 0.001,
    as_json: Json = False,
) -> None:
    """Verify every block of a run's store; exit 1 if any is bad or missing and was not mended."""
    from kdscale.logits import fsck
    from kdscale.pipeline import health, logits, stages
    from kdscale.pipeline import run as runs
    from launcher import local

    opened = _opened(run)
    with runs.only_driver(opened.folder):
        if repair and (count := fsck.rebuild_log(logits.where(opened))):
            print(f"the commit log was damaged and is made again from {count} blocks")
        found = health.check(opened, share)
        mended = False
        if found and repair:
            with bars() as shown, local.connection(opened.recipe.cluster):
                health.mend(opened, found, lambda: stages.advance(opened, "logits", nullcontext, shown), shown)
            mended = True
    if as_json:
        print(json.dumps({"faults": [{"slot": f.slot.path, "what": f.what} for f in found], "mended": mended}))
    else:
        for fault in found:
            print(f"{fault.slot.path}: {fault.what}")
        print(f"{len(found)} faults{', mended' if mended else ''}")
    if found and not mended:
        raise RunFailure(f"{run}: {len(found)} blocks of the store are bad or missing; mend them with --repair")


@logits_app.command("prune", epilog="Example: kdscale logits prune runs/quickstart --dry-run")
def logits_prune(run: RunFolder, dry_run: DryRun = False) -> None:
    """Delete what killed writers left, and the blocks of members and views that the recipe no longer names."""
    from kdscale.logits import fsck
    from kdscale.pipeline import health, logits
    from kdscale.pipeline import run as runs

    opened = _opened(run)
    with runs.only_driver(opened.folder):
        store = logits.open_store(opened)
        keep = health.wanted(opened, store)
        settled = fsck.SETTLED if opened.recipe.logits.path else 60.0  # nobody else writes into a run
        found = fsck.unused(store, keep, settled)
        count, size = (len(found), sum(found.values())) if dry_run else fsck.prune(store, keep, settled)
    print(f"{count} files, {size / 1e6:.2f} MB{' would be' if dry_run else ''} deleted")


@logits_app.command("fuse", epilog="Example: kdscale logits fuse runs/quickstart --members 0,1,2")
def logits_fuse(
    run: RunFolder,
    members: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; the recipe's by default.")] = None,
    rule: Annotated[str | None, typer.Option(help="Fusion rule; the recipe's by default.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="T of a mean probability; the student's by default.")
    ] = None,
) -> None:
    """Fuse members on disk, so that students read one block where they read several."""
    from kdscale.pipeline import fuse, logits
    from kdscale.pipeline import run as runs
    from launcher import local

    opened = _opened(run)
    try:
        seeds = None if members is None else [int(seed) for seed in members.split(",")]
    except ValueError:
        raise UserError(f"--members {members}: give seeds with commas between them, such as 0,1,2") from None
    made_of = fuse.make(opened, seeds, rule, temperature)
    with runs.only_driver(opened.folder), local.connection(opened.recipe.cluster), bars() as shown:
        name = fuse.work(opened, made_of, shown)
    blocks, rows, size = logits.open_store(opened).listing().totals(name)
    print(f"{name}: {len(made_of.members)} members in {blocks} blocks, {size / max(1, rows):.1f} bytes a row")


@logits_app.command("export", epilog="Example: kdscale logits export runs/quickstart logits.parquet")
def logits_export(run: RunFolder, out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file.")]) -> None:
    """Write the members' logits to one Parquet file: key, shard, view, member and the codec's columns."""
    from kdscale.logits.export import to_parquet
    from kdscale.pipeline import logits

    if out.suffix != ".parquet":
        raise UserError(f"{out}: the logits are written as Parquet alone; name the file {out.with_suffix('.parquet')}")
    opened = _opened(run)
    slots = logits.slots(opened)
    with bars() as shown:
        rows = to_parquet(
            logits.open_store(opened), slots, out, lambda blocks: shown.show("blocks", blocks, len(slots))
        )
    print(f"{out}: {rows} rows")


def _opened(run: Path) -> Any:
    """The run whose store is meant."""
    from kdscale.pipeline.run import Run, load_recipe

    folder = run_folder(run)
    return Run(folder.resolve(), load_recipe(folder))


def _plain(value: Any) -> str:
    """A value of the overview as a person writes it."""
    if isinstance(value, dict):
        name, *rest = value.items()
        return ", ".join([str(name[1]), *(f"{key} {_plain(part)}" for key, part in rest)])
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "any" if value is None else str(value)

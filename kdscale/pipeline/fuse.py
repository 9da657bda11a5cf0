"""Fusing a run's members on disk: for ensembles that cost too much to read member by member, see `kdscale logits fuse`."""

from collections.abc import Sequence
from pathlib import Path

from kdscale.ensemble import compaction
from kdscale.errors import UserError
from kdscale.logits.records import Fused
from kdscale.pipeline import logits, teachers
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe
from kdscale.tracking.progress import Bars


def make(run: Run, members: Sequence[int] | None, rule: str | None, temperature: float | None) -> Fused:
    """What a fused set is made of, by the recipe where nothing else is asked for.

    Raises:
        UserError: a member is not finished, or the codec cannot be fused so.
    """
    recipe, trained = run.recipe, teachers.members(run)
    seeds = recipe.fused_seeds if members is None else list(dict.fromkeys(members))
    for seed in seeds:
        if seed not in trained:
            raise UserError(
                f"{run.folder}: seed {seed} is no finished member; finish the run, or name others with --members"
            )
    if len(seeds) < 2:
        raise UserError("fuse: one member is no ensemble; name at least two with --members")
    named = {logits.member_name(seed): trained[seed] for seed in seeds}
    store = logits.open_store(run)
    if temperature is not None and (rule or recipe.fusion.rule) == "mean_logit":
        raise UserError("--temperature: a mean logit serves any temperature; leave it out")
    wanted = recipe.student.temperature if temperature is None else temperature
    return compaction.make(named, logits.weights(recipe), rule or recipe.fusion.rule, wanted, store.codec)


def work(run: Run, made_of: Fused, bars: Bars) -> str:
    """Fuse every shard and view that is not fused yet; the name of the fused set."""
    from kdscale import cluster

    name = compaction.set_name(made_of)
    shards = run.manifest.splits[logits.SPLIT]
    names, there = [shard.name for shard in shards], logits.open_store(run).listing()
    todo = [
        (number, view)
        for view in range(run.recipe.logits.views)
        for number, held in enumerate(there.holds(names, view, name))
        if not held
    ]
    row = logits.row_bytes(run.recipe, len(run.manifest.classes))
    logits.refuse_too_large(run, row * sum(shards[number].samples for number, _ in todo))
    done = 0

    def tick() -> None:
        bars.show("fuse: blocks", done, len(todo))

    def count(blocks: int) -> None:
        nonlocal done
        done += blocks

    tasks = cluster.Tasks(tick, run.owner("logits"))
    part: list[tuple[int, int]] = []
    for place, item in enumerate(todo, 1):
        part.append(item)
        if place == len(todo) or sum(shards[number].samples for number, _ in part) >= logits.ROWS_A_TASK:
            tasks.submit("fuse", fuse_part, run.folder, run.recipe, made_of, part, needs=cluster.Needs(), done=count)
            part = []
    tasks.run()
    tick()
    logits.open_store(run).commits.compact()
    return name


def fuse_part(folder: Path, recipe: Recipe, made_of: Fused, part: list[tuple[int, int]]) -> int:
    """On a worker: fuse some shards, committing each; the number of blocks."""
    from kdscale.training.engine import use_device

    use_device(1, 0)
    run = Run(folder, recipe)
    store, shards = logits.open_store(run), run.manifest.splits[logits.SPLIT]
    for number, view in part:
        compaction.fuse_shard(store, shards[number].name, view, made_of, shards[number].sha256)
    return len(part)

"""The lineage of a run in W&B: what each job made of what, as artefacts by reference, with our own hash of the content.

    python -m kdscale.tracking.publishing RUN    # what a command does at its end, in a process that may be given up

It reads RUN/tracking/lineage.json, which the pipeline wrote, and goes over the jobs one by one: rows that an outage kept
from the server are sent, numbers that later stages found are put into the job's summary, what it used and made is noted.
A job that is published already is not touched again, so the whole may be repeated.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdscale import files
from kdscale.errors import RunFailure
from kdscale.recipe import Recipe, WandB
from kdscale.tracking import names
from kdscale.tracking.identity import FOLDER, identity, kind_of
from kdscale.tracking.job import rows
from kdscale.tracking.wandb import WATERMARK, Refused, Watermark, first_line, start_online, warn

LINEAGE = "lineage.json"
PUBLISHED = "published.json"
LOCK = ".publishing.lock"
MANIFEST = "manifest.json"
"""In every artefact: what its reference points to, and the hash of the content."""
PATIENCE = 60.0, 4.0
"""Seconds that publishing may take at the end of a command, and for each job."""
_ANSWER = 30
"""Seconds for one artefact."""


@dataclass(frozen=True)
class Artefact:
    """Something that a job made."""

    type: str
    """shards, member, store, student or specialist."""
    content: str
    """Our own hash of it."""
    reference: str
    """The URL of a file of it, the one that lists the rest where there are many; W&B gets no more than this."""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """A finished job of a run."""

    stage: str
    job: str
    folder: str
    """Of its record, relative to the run."""
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)
    uses: list[str] = field(default_factory=list)
    """Names of the jobs whose artefacts it was made from."""
    made: Artefact | None = None
    summary: dict[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return files.digest(asdict(self))


def write(run: Path, nodes: list[Node]) -> None:
    files.write_json(run / FOLDER / LINEAGE, [asdict(node) for node in nodes])


def read(run: Path) -> list[Node]:
    found = []
    for tree in files.read_json(run / FOLDER / LINEAGE) or []:
        made = tree.pop("made")
        found.append(Node(**tree, made=Artefact(**made) if made else None))
    return found


def publish_aside(run: Path, nodes: int) -> None:
    """Publish in a process of its own, for no longer than it may take; what remains is said in one line."""
    own_core = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    try:
        subprocess.run(
            [sys.executable, "-m", __name__, str(run)],
            env=own_core,
            timeout=PATIENCE[0] + PATIENCE[1] * nodes,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        warn(f"W&B does not take the lineage of {run.name} in time; send it later with: kdscale wandb sync RUN")


def publish(
    run: Path, recipe: Recipe, settings: WandB, nodes: list[Node], say: Callable[[str], None] = lambda line: None
) -> tuple[int, int]:
    """Publish what is not yet; how many jobs that were, and how many rows were sent.

    Raises:
        RunFailure: the server cannot be used, or another process does this.
    """
    settings = settings.model_copy(update={"mode": "online"})
    aliases = {node.job: (_name(run, recipe, node), node.made.content[:12]) for node in nodes if node.made}
    sent = count = 0
    with files.locked(run / FOLDER / LOCK, wait=5):
        done: dict[str, str] = files.read_json(run / FOLDER / PUBLISHED) or {}
        for node in nodes:
            if done.get(node.job) == node.mark:
                continue
            try:
                sent += _publish(run, recipe, settings, node, [":".join(aliases[job]) for job in node.uses])
            except Refused as error:
                raise RunFailure(f"the W&B server {error}; nothing is lost, try again when it can be reached") from None
            except Exception as error:
                raise RunFailure(
                    f"W&B does not take {node.job} ({first_line(error)}); nothing is lost, give the same command again"
                ) from error
            done[node.job] = node.mark
            count += 1
            files.write_json(run / FOLDER / PUBLISHED, done)
            say(node.job)
    return count, sent


def _publish(run: Path, recipe: Recipe, settings: WandB, node: Node, uses: list[str]) -> int:
    import wandb

    who = identity(run, recipe, kind_of(node.stage, node.job), node.job, node.fingerprint, node.facts)
    with tempfile.TemporaryDirectory(prefix="kdscale-wandb-") as aside:
        opened = start_online(settings, Path(aside), who)
        try:
            sent = _catch_up(opened, run / node.folder, who.id)
            opened.summary.update(node.summary)
            for name in uses:
                opened.use_artifact(name)
            if node.made is not None:
                made = node.made
                artefact = wandb.Artifact(
                    _name(run, recipe, node), type=made.type, metadata={"sha256": made.content, **made.about}
                )
                if made.reference.startswith("file://"):  # not hashed: the path is all that W&B gets
                    artefact.add_reference(made.reference, name="content", checksum=False)
                with artefact.new_file(MANIFEST, mode="w") as file:
                    json.dump({"sha256": made.content, "reference": made.reference, **made.about}, file, sort_keys=True)
                opened.log_artifact(artefact, aliases=["latest", made.content[:12]]).wait(timeout=_ANSWER)
        except BaseException:
            opened.finish(exit_code=1)
            raise
        opened.finish()
    return sent


def _catch_up(opened: Any, folder: Path, run_id: str) -> int:
    """Send the rows that are in metrics.jsonl and neither on the server nor in a log that was synced; how many."""
    watermark = Watermark(folder / WATERMARK, run_id, offline=False)
    if isinstance(step := opened.summary.get(names.STEP), int):
        watermark.reached(step)
    sent = 0
    for step, values in rows(folder):
        if not watermark.repeats(step):
            watermark.advance(step)
            opened.log({names.STEP: step, **values})
            sent += 1
    watermark.close()
    return sent


def _name(run: Path, recipe: Recipe, node: Node) -> str:
    who = identity(run, recipe, kind_of(node.stage, node.job), node.job, node.fingerprint, {})
    return f"{who.group}-{who.name}".replace("/", "-")[:128]


def main(run: Path) -> None:
    import yaml

    recipe = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
    try:
        publish(run, recipe, recipe.tracking.wandb, read(run))
    except RunFailure as error:
        warn(f"{error}: kdscale wandb sync {run}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

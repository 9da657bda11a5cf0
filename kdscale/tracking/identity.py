"""Which W&B run is a job's: the group it belongs to, its id, kind, name, tags and configuration.

The group is one kdscale run, whatever else has its name: a run directory draws a short id when it first needs one and
keeps it. The id of a job's W&B run follows from that, the job's name and the fingerprint of what it makes, so that a
retry or a requeue finds it again, and another recipe in the same directory gets another.
"""

import os
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdscale import files
from kdscale.recipe import Recipe

FOLDER = "tracking"
"""In a run directory: its id, and what the run as a whole logs."""
GROUP = "group"
_KINDS = {"teachers": "teacher", "specialists": "specialist"}
_LONGEST_TAG = 64


@dataclass(frozen=True)
class Identity:
    """What W&B is told of a job beside its rows."""

    group: str
    id: str
    kind: str
    """teacher, student, control, joint, specialist, distilled, mixture, data, store or evaluate; the W&B job type."""
    name: str
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def identity(run: Path, recipe: Recipe, kind: str, job: str, fingerprint: str, facts: dict[str, Any]) -> Identity:
    """The identity of a job of a run.

    Args:
        run: the run directory; its id is kept there.
        job: the job's name, as in metrics.jsonl.
        fingerprint: of what the job makes.
        facts: what tells it from others of its kind, such as its seed; in the configuration under ``job``.
    """
    own = run_id(run)
    name = job if job.startswith(kind) else f"{kind}-{job}"
    tags = dict.fromkeys([*recipe.tracking.wandb.tags, kind, recipe.data.source, recipe.logits.codec])
    return Identity(
        group=f"{recipe.name}-{own}",
        id=f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}-{files.digest([own, job, fingerprint])[:12]}",
        kind=kind,
        name=name,
        tags=tuple(tag[:_LONGEST_TAG] for tag in tags),
        config={**recipe.model_dump(mode="json"), "job": {**facts, "kind": kind, "name": job}},
    )


def kind_of(stage: str, job: str) -> str:
    """The kind of a job by its stage and name: ``student``, ``control-seed-0`` -> ``control``."""
    return _KINDS.get(stage) or job.partition("-seed-")[0]


def run_id(run: Path) -> str:
    """The id of a run directory, drawn by whoever asks first."""
    path = run / FOLDER / GROUP
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = path.with_name(f"{files.TEMPORARY}{GROUP}-{uuid.uuid4().hex}")
        drawn.write_text(uuid.uuid4().hex[:8])
        try:
            os.link(drawn, path)  # the first of several wins
        except FileExistsError:
            pass
        except OSError:  # no hard links here
            os.replace(drawn, path)
        finally:
            drawn.unlink(missing_ok=True)
    return path.read_text().strip()

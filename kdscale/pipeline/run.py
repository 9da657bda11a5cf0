"""A run: one execution of a recipe, as a directory of artefacts.

    RUN/recipe.yaml            the resolved recipe
    RUN/data/                  shards and manifest
    RUN/teachers/seed-0/       a member: weights, metrics, status, checkpoints while it trains
    RUN/teachers/pack.json     how many members share a process, and why
    RUN/logits/                the logit store of the training split
    RUN/students/student-seed-0/, RUN/students/control-seed-0/, RUN/students/joint-seed-0/
    RUN/specialists/seed-0/    class sets of the generalist of that seed, and a folder for each specialist
    RUN/evaluate/              logits of every model on the test split
    RUN/evaluate-validation/   the same on the validation split
    RUN/features/, RUN/features-validation/, RUN/fusion.json    what `kdscale evaluate --fusion` asked for
    RUN/results.json, RUN/metrics.jsonl, RUN/report/index.html
    RUN/tracking/              the run's id in W&B, and what it logs as a whole: the store's growth, the results
    RUN/jobs/                  scripts and logs of the cluster jobs that worked on the run; the launcher's own
    RUN/previous/              artefacts of earlier recipes, kept and taken back when a recipe returns to them

A run in an object store is such a directory on every node, kept like the bucket (`kdscale.mirror`).

An artefact carries the fingerprint of what made it: the recipe's parts that matter to it and the fingerprints of
what it was made from. One of another fingerprint is set aside, never overwritten.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from kdscale import recipe_files as recipes
from kdscale.data.manifest import Manifest
from kdscale.errors import UserError
from kdscale.files import write_text
from kdscale.pipeline.accounts import Accounts
from kdscale.recipe import Recipe, Teachers
from kdscale.tracking.status import stop_file

if TYPE_CHECKING:
    from kdscale.cluster import Owner

RECIPE = "recipe.yaml"
MARK = "fingerprint"
LOCK = ".driver.lock"
JOBS = "jobs"
HOW_ONLY = frozenset({"cpus", "gpus", "retries", "checkpoint_epochs", "pack", "placement", "workers"})
"""Fields of teachers and student that say how the work is done, not what comes out.

The number of workers is one of them but for rounding and for what dropout draws on each rank: what is finished is not
trained again for another number of ranks.
"""
GROWS = frozenset({"count"})
"""Fields of teachers that add members and leave those that are there as they are."""
FREE = (
    *("logits.", "fusion.", "student.", "joint.", "specialists.", "evaluate.", "tracking.", "cluster.", "data.views."),
    *(f"teachers.{field}:" for field in HOW_ONLY | GROWS),
)
"""What a recipe may change in a run directory: the dataset and the members that are there serve it as well."""
ADDED = frozenset({"deepspeed", "share", "classes", "optimizer", "weights"})
"""Fields of teachers that came later: at their defaults they leave a member's fingerprint what it was."""
IMPORTED = "imported.json"
"""In RUN/data: the import is whole, and what it was of."""


def what_members_are(teachers: Teachers) -> dict[str, Any]:
    """What the recipe says of members beside their seeds."""
    fields = teachers.model_dump(mode="json", exclude=set(HOW_ONLY | GROWS | {"first_seed"}))
    plain = type(teachers).model_fields
    at_default = {
        name for name in ADDED if getattr(teachers, name) == plain[name].get_default(call_default_factory=True)
    }
    return {name: value for name, value in fields.items() if name not in at_default}


class Run:
    """A run directory and the recipe that it executes."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder, self.recipe = folder, recipe
        self.accounts = Accounts(folder)

    def keep_recipe(self) -> None:
        """From here on the directory is of this recipe."""
        text, path = self.recipe.dump(), self.folder / RECIPE
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    @property
    def dataset(self) -> Path:
        return self.folder / "data"

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.load(self.dataset)

    def claim(self, name: str, fingerprint: str) -> Path:
        """The folder RUN/name for an artefact of this fingerprint.

        One of another fingerprint is moved to RUN/previous; one of this fingerprint comes back from there.
        """
        folder = self.folder / name
        current = self.claimed(name)
        if current != fingerprint:
            if current is not None:
                self._previous(name, current).parent.mkdir(parents=True, exist_ok=True)
                folder.rename(self._previous(name, current))
            before = self._previous(name, fingerprint)
            if before.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                before.rename(folder)
            else:
                write_text(folder / MARK, fingerprint)
        return folder

    def take_back(self, name: str, fingerprint: str) -> None:
        """Bring the artefact of this fingerprint back to RUN/name if it was set aside."""
        if self._previous(name, fingerprint).exists():
            self.claim(name, fingerprint)

    def locate(self, name: str, fingerprint: str) -> Path | None:
        """Where the artefact of this fingerprint lies: in RUN/name, set aside, or nowhere."""
        if self.claimed(name) == fingerprint:
            return self.folder / name
        aside = self._previous(name, fingerprint)
        return aside if aside.exists() else None

    def claimed(self, name: str) -> str | None:
        """The fingerprint of the artefact that lies in RUN/name."""
        mark = self.folder / name / MARK
        return mark.read_text() if mark.exists() else None

    def _previous(self, name: str, fingerprint: str) -> Path:
        return self.folder / "previous" / f"{name.replace('/', '-')}-{fingerprint[:12]}"

    def owner(self, stage: str) -> "Owner":
        """For whom a stage's jobs run: until the run is stopped, on the stage's account."""
        from kdscale.cluster import Needs, Owner

        def book(needs: Needs, seconds: float) -> None:
            self.accounts.book(stage, needs.cpus, needs.gpus, seconds)

        return Owner(stop_file(self.folder).exists, book)


def open_run(folder: Path, recipe: Recipe, tentative: bool = False) -> tuple[Run, list[str]]:
    """Make or re-open a run directory.

    Args:
        tentative: leave the recipe that is there until `Run.keep_recipe` is called, since this one may still be refused.

    Returns:
        The run, and in what the recipe differs from the one that was run there before.

    Raises:
        UserError: the folder is no run, or is one whose dataset or members this recipe could not use.
    """
    changes = check(folder, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, recipe)
    if not tentative or not (folder / RECIPE).exists():
        run.keep_recipe()
    return run, changes


def set_aside(folder: Path) -> Path:
    """Rename a run directory to a free name beside it."""
    check_is_run(folder)
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def check_is_run(folder: Path) -> None:
    """Refuse a file, and a folder that holds something else than a run."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a directory with --out")
    leftovers = any(not entry.name.startswith(".") and entry.name != JOBS for entry in folder.iterdir())
    if leftovers and not (folder / RECIPE).exists():
        raise UserError(f"{folder}: not a run directory (it has no {RECIPE}) and not empty; take another --out")


def check(folder: Path, recipe: Recipe) -> list[str]:
    """In what a recipe differs from the one of the run directory, if there is one; nothing is written.

    Raises:
        UserError: as for `open_run`.
    """
    if not folder.exists():
        return []
    check_is_run(folder)
    if not (folder / RECIPE).exists():
        return []
    old = load_recipe(folder)
    changes = recipes.differences(old, recipe)
    imported = (folder / "data" / IMPORTED).exists()
    trained = any(folder.glob("teachers/*/done.json"))
    fatal = [change for change in changes if not change.startswith(FREE)]
    if any(trained if change.startswith("teachers.") else imported for change in fatal):
        more = f" and {len(fatal) - 3} more" if len(fatal) > 3 else ""
        raise UserError(
            f"{folder}: holds a run of a different recipe ({'; '.join(fatal[:3])}{more}); "
            "take another directory with --out, or start anew with --fresh (the old run is kept beside it)"
        )
    return changes


def load_recipe(folder: Path) -> Recipe:
    """The recipe that a run directory executes."""
    path = folder / RECIPE
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: not a run directory (it has no {RECIPE}); give one, such as runs/quickstart"
        ) from None
    except (OSError, yaml.YAMLError, ValidationError):
        raise UserError(f"{path}: cannot be read as a recipe; restore it, or start anew with --fresh") from None


def has_driver(folder: Path) -> bool:
    """Whether a command works on the run at this moment."""
    try:
        with open(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Let one command at a time work on a run.

    Raises:
        UserError: another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: another kdscale command is working on this run; wait for it or stop it"
            ) from None
        yield

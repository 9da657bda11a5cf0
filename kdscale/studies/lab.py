"""The lab: a study's recipe, varied, run through the public stages, measured, and kept.

    STUDY/measured/LABEL.json     what was measured of a run, and the recipe that it was measured of
    STUDY/runs/ab12cd34/          run directories; recipes that share their data and members share one
    STUDY/results.json, STUDY/index.html

Runs can be resumed and what was measured is kept, so a study that is killed goes on where it was.
"""

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdscale import __version__
from kdscale import recipe_files as recipes
from kdscale.errors import UserError
from kdscale.files import digest, read_json, write_json
from kdscale.pipeline.evaluate import RESULTS
from kdscale.pipeline.run import GROWS, HOW_ONLY, Run
from kdscale.recipe import Recipe
from kdscale.studies.catalogue import Study
from kdscale.studies.findings import Findings, figures

MEASURED = "measured"
DIGITS = (
    *("data.source=digits", "data.path=null", "data.options={}", "data.validation=0.1", "data.test=0.3"),
    *("data.train=null", "data.shard_size=128", "teachers.views={}"),
)
"""Overrides that put scikit-learn's digits in the place of data that are not there."""


class Bring(Protocol):
    """Brings the run of a recipe up to a stage, as `kdscale run` does; `stack`: the members' features are stacked as well."""

    def __call__(self, last: str, recipe: Recipe, folder: Path, stack: bool = False) -> Run: ...


def results(run: Run) -> dict[str, Any]:
    """What the evaluate stage says of the test split."""
    whole = read_json(run.folder / RESULTS)
    assert whole is not None, "the evaluate stage writes it"
    found: dict[str, Any] = whole["splits"]["test"]
    return found


class Lab:
    """Where one study is done."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        bring: Bring,
        quick: bool = False,
        seeds: int | None = None,
        overrides: Sequence[str] = (),
        say: Callable[[str], None] = lambda text: None,
    ):
        """
        Args:
            bring: the launcher's.
            seeds: repetitions; the study's own number by default.
            overrides: the user's; what the study itself varies from run to run comes after them.

        Raises:
            UserError: an override that the study's recipe does not take.
        """
        self.study, self.folder, self.bring, self.quick, self.say = study, folder, bring, quick, say
        self.seeds = seeds or study.module.SEEDS[0 if quick else 1]
        self.overrides = list(overrides)
        self.used: dict[str, Recipe] = {}
        self.notes: list[str] = []
        self._before = list(study.module.QUICK) if quick else []
        if self.overrides:
            self.notes.append(f"The recipe was changed: {', '.join(self.overrides)}.")
        data = recipes.load(study.recipe, [*self._before, *self.overrides]).data
        own = any(override.startswith("data.path=") for override in self.overrides)
        if not own and data.path is not None and "://" not in data.path and not Path(data.path).exists():
            self._before += getattr(study.module, "FALLBACK", DIGITS)
            self.notes.append(
                f"There is nothing at {data.path}, so these are scikit-learn's 1,797 digits of 8x8 pixels; "
                "data.path=FOLDER takes your own copy."
            )

    def recipe(self, *changes: str) -> Recipe:
        """The study's recipe: its quick form if that was asked for, then the user's overrides, then a variation of the study.

        Raises:
            UserError: the study's first run sets a field that the user gave.
        """
        if not self.used:
            self._refuse(changes)
        return recipes.load(self.study.recipe, [*self._before, *self.overrides, *changes])

    def _refuse(self, changes: Sequence[str]) -> None:
        sets = [change.partition("=")[0] for change in changes]
        for override in self.overrides:
            name = override.partition("=")[0]
            if any(name == one or name.startswith(f"{one}.") for one in sets):
                raise UserError(
                    f"{name}: the study {self.study.name} sets it itself; --seeds says how often it is repeated, and "
                    f"kdscale run configs/studies/{self.study.name}.yaml takes any value"
                )

    def run(
        self,
        label: str,
        *changes: str,
        measure: Callable[..., Any] = results,
        given: Sequence[Any] = (),
        last: str = "evaluate",
        stack: bool = False,
    ) -> Any:
        """What is measured of the run of a variation of the recipe, a JSON value; neither is done twice.

        Args:
            label: names what is measured; unique in the study.
            measure: a function of the run and of what is `given`.
            stack: whether the layer on all members' features is fitted as well, for `comparison.FEATURES`.
        """
        recipe = self.recipe(*changes)
        self.used[label] = recipe
        tree = recipe.model_dump(mode="json")
        mark = digest([tree, measure.__module__, measure.__qualname__, list(given), last, __version__])
        path = self.folder / MEASURED / f"{label}.json"
        kept = read_json(path)
        if kept is not None and kept["mark"] == mark:
            return kept["value"]
        self.say(f"{self.study.name}: {label}")
        start = time.monotonic()
        value = measure(self.bring(last, recipe, self.folder / "runs" / shared(recipe), stack), *given)
        write_json(path, {"mark": mark, "seconds": time.monotonic() - start, "recipe": tree, "value": value})
        return value

    def seconds(self) -> float:
        """What the measured runs took, over all commands that worked on them."""
        kept = (read_json(self.folder / MEASURED / f"{label}.json") for label in self.used)
        return float(sum(one["seconds"] for one in kept if one is not None))

    def conclude(self, found: Findings) -> dict[str, Any]:
        """Everything about the study as a JSON value, which is also kept."""
        study, tree = self.study, found.as_json()
        tree["notes"] = [*self.notes, *found.notes]
        whole = {
            "study": study.name,
            "claim": study.claim,
            "source": study.source,
            "quick": self.quick,
            "seeds": self.seeds,
            **tree,
            "figures": figures(tree),
            "recipe": self.recipe().model_dump(mode="json"),
            "varied": {label: recipes.differences(self.recipe(), recipe) for label, recipe in self.used.items()},
            "machine": {"python": platform.python_version(), "system": platform.platform(), "kdscale": __version__},
            "seconds": round(self.seconds(), 1),
        }
        write_json(self.folder / RESULTS, whole)
        return whole


def shared(recipe: Recipe) -> str:
    """Names a run directory by what no recipe may change in one: the data, and what its members are."""
    members = recipe.teachers.model_dump(mode="json", exclude=set(HOW_ONLY | GROWS))
    data = recipe.data.model_dump(mode="json", exclude={"views"})
    return digest([recipe.name, recipe.seed, data, members])[:8]

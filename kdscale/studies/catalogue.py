"""What studies there are, what each one claims, and what it costs. Nothing heavy is loaded for this."""

import difflib
import importlib
from pathlib import Path
from typing import Any, NamedTuple

from kdscale.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
HINTON = "Hinton, Vinyals & Dean 2015"
MYSTERIES = "Allen-Zhu & Li 2023"
ZUCHNIAK = "Zuchniak 2023"


class Study(NamedTuple):
    """One experiment of a paper."""

    name: str
    claim: str
    """What the paper says, in one line."""
    source: str
    quick: str
    """What `--quick` takes on two cores."""
    full: str

    @property
    def recipe(self) -> Path:
        return RECIPES / f"{self.name}.yaml"

    @property
    def module(self) -> Any:
        """Its own part: `measure(lab)`, `SEEDS` (quick, full) and `QUICK`, the overrides of the quick form."""
        return importlib.import_module(f"kdscale.studies.{self.name.replace('-', '_')}")


STUDIES: tuple[Study, ...] = (
    Study(
        "fusion-voting",
        "more voters help every fusion rule; Borda beats plurality; with few voters summed probabilities are best",
        f"{ZUCHNIAK}, fusion rules",
        "1 min",
        "10 min",
    ),
)


def named(name: str) -> Study:
    """The study of a name.

    Raises:
        UserError: there is none; says which is nearest.
    """
    known = {study.name: study for study in STUDIES}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "kdscale study list shows them"
    raise UserError(f"kdscale study: there is no study {name}; {hint}")

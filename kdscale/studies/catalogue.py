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
        "hinton-mnist",
        "a small net on soft targets makes half the errors of one on labels; which T is best depends on the width",
        f"{HINTON}, section 3",
        "2 min",
        "45 min",
    ),
    Study(
        "hinton-missing-class",
        "a student knows a class that its transfer set lacks, from soft targets alone, once a bias is mended",
        f"{HINTON}, section 3",
        "2 min",
        "30 min",
    ),
    Study(
        "hinton-soft-regulariser",
        "with 3% of the data soft targets need no early stopping and beat labels by far",
        f"{HINTON}, section 6",
        "2 min",
        "15 min",
    ),
    Study(
        "hinton-speech",
        "a net distilled from ten keeps more than 80% of what they gain, in frames and in words",
        f"{HINTON}, section 4",
        "2 min",
        "15 min",
    ),
    Study(
        "hinton-jft",
        "specialists for confusable classes help a generalist, most where most of them cover a class",
        f"{HINTON}, section 5",
        "2 min",
        "8 min",
    ),
    Study(
        "mysteries-ensemble",
        "seeds alone make an ensemble gain far more than their spread; training the average jointly gives none of it",
        f"{MYSTERIES}, section 1",
        "2 min",
        "5 min",
    ),
    Study(
        "mysteries-self-distillation",
        "a net that learns from another of its kind is better than its teacher",
        f"{MYSTERIES}, section 1",
        "2 min",
        "10 min",
    ),
    Study(
        "mysteries-gaussian",
        "on Gaussian inputs, whatever the target function, an ensemble gains far less than on structured data",
        f"{MYSTERIES}, section 1",
        "2 min",
        "5 min",
    ),
    Study(
        "mysteries-ntk",
        "an ensemble of tangent kernels gains, one of them cannot be taught it, training the average gains all",
        f"{MYSTERIES}, section 1",
        "2 min",
        "5 min",
    ),
    Study(
        "mysteries-multiview",
        "each seed learns some of the views; the ensemble has all, and distillation passes them on",
        f"{MYSTERIES}, sections 2 to 4",
        "3 min",
        "15 min",
    ),
    Study(
        "mysteries-views",
        "channels of an intermediate layer respond to parts of a class, other ones in another seed: a page to look at",
        f"{MYSTERIES}, figure 5",
        "1 min",
        "5 min",
    ),
    Study(
        "multi-teacher",
        "a student with a head for each teacher beats one of their mean, in every cell of teachers and shares",
        f"{ZUCHNIAK}, distillation",
        "2 min",
        "45 min",
    ),
    Study(
        "fusion-voting",
        "more voters help every fusion rule; Borda beats plurality; with few voters summed probabilities are best",
        f"{ZUCHNIAK}, fusion rules",
        "2 min",
        "10 min",
    ),
    Study(
        "inspection",
        "corrosion and smoke, split by airframe and camera: recall at a fixed rate of false alarms",
        f"{ZUCHNIAK}, applications",
        "2 min",
        "20 min",
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
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "kdscale study list shows them"
    raise UserError(f"kdscale study: there is no study {name}; {hint}")

"""The types of results.json: the contract between evaluation, which writes it, and the report, which reads it.

Checked once at the door, so that tables and figures may rely on what they use; fields that the report does
not know are let through.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdscale.errors import UserError


class Part(BaseModel):
    """Base of every part of the results."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Fitted(Part):
    """What a temperature gained on the validation split, where it was fitted."""

    n: int
    nll_before: float
    nll: float
    error: float
    """Standard error of the difference of the two: chance alone may give a gain of less than two of it."""


class Scaled(Part):
    """A model after temperature scaling: the T that was fitted on the validation split, and what it makes of this one."""

    temperature: float
    nll: float
    brier: float | None = None
    ece: float | None = None
    fitted: Fitted | None = None


class Metrics(Part):
    """One model on one split. Fractions, except `nll` in nats."""

    accuracy: float
    errors: float
    """Wrong predictions; a mean over seeds need not be whole."""
    n: int = Field(ge=0)
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    agreement: float | None = None
    """How often the prediction is the ensemble's."""
    divergence: float | None = None
    """Mean KL of the model from the ensemble, in nats."""
    scaled: Scaled | None = None
    """None without a validation split, or where no temperature is the best one."""
    seed: int | None = None


class Trained(Metrics):
    """A student or control: means over its seeds, and each seed's own numbers."""

    runs: list[Metrics] = Field(default_factory=list)

    @property
    def each(self) -> list[Metrics]:
        """One entry a seed; the means themselves where the seeds were not kept."""
        return self.runs or [self]


class Joint(Trained):
    """The average of several networks, trained as one."""

    networks: int = Field(ge=1)


class Fused(Metrics):
    """The mean probability of the students, or controls, of all seeds."""

    members: int = Field(ge=1)


class Range(Part):
    mean: float
    min: float
    max: float
    std: float | None = None
    """Over the subsets that were taken."""


class BySize(Part):
    """Ensembles of so many members, over several subsets of the teachers."""

    members: int = Field(ge=1)
    accuracy: Range
    nll: Range | None = None
    brier: Range | None = None
    ece: Range | None = None
    subsets: int = 1


class Bin(Part):
    """One bin of a reliability diagram; confidence and accuracy are None where it is empty."""

    low: float
    high: float
    count: int
    confidence: float | None = None
    accuracy: float | None = None


class Diversity(Part):
    """How much the members differ; means over the samples, in nats but for the disagreement."""

    disagreement: float
    """The share of samples on which two members choose different classes, over all pairs."""
    entropy: float | None = None
    """Of the members' mean distribution."""
    mean_entropy: float | None = None
    mutual_information: float | None = None
    """Between prediction and member: the mean KL of a member from the members' mean."""
    pairs: list[list[float]] | None = None
    """The disagreement of every two members."""


class Coverage(Part):
    """The test examples whose class so many specialists cover, over all seeds."""

    specialists: int
    examples: int
    before: int
    """Correct answers of the generalists alone."""
    after: int
    """Correct answers with specialists."""
    change: int = 0
    relative: float | None = None
    """The change over the generalists' correct answers."""


class Compared(Part):
    """An accuracy without and with specialists: means over the seeds."""

    before: float
    after: float
    relative: float
    each: list[float] = Field(default_factory=list)
    """The relative gain of each seed."""
    alone: list[float] = Field(default_factory=list)
    together: list[float] = Field(default_factory=list)
    """The accuracies of each seed."""


class OfSeed(Part):
    """The specialists of one generalist."""

    seed: int
    sets: list[list[int]] = Field(default_factory=list)
    """Class numbers of each specialist."""
    purity: float | None = None
    """Mean share of a set's most frequent group, where the classes' names have groups."""
    chance: float | None = None
    """The same of sets of the same sizes that are drawn at random."""


class Gains(Part):
    """What specialists bring (Hinton, Vinyals & Dean 2015, section 5.6)."""

    generalist: str
    test: Compared
    conditional: Compared | None = None
    """On examples of special classes alone, predictions restricted to these."""
    coverage: list[Coverage] = Field(default_factory=list)
    trend: float | None = None
    """Spearman's rank correlation of coverage and relative gain."""
    seeds: list[OfSeed] = Field(default_factory=list)


class Split(Part):
    """Everything measured on one split."""

    teachers: list[Metrics] = Field(min_length=1)
    ensemble: Metrics
    student: Trained
    control: Trained | None = None
    joint: Joint | None = None
    student_ensemble: Fused | None = None
    """None where there is but one seed."""
    control_ensemble: Fused | None = None
    specialists: Trained | None = None
    """Generalist and specialists together."""
    distilled: Trained | None = None
    """The student that was trained from what these say."""
    mixture: Trained | None = None
    """The mixture of experts, trained jointly."""
    gains: Gains | None = None
    by_size: list[BySize] = Field(default_factory=list)
    diversity: Diversity | None = None
    reliability: dict[str, list[Bin]] = Field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = Field(default_factory=dict)
    """Counts, [label, prediction], of a model's first seed; left out where there are many classes."""


class Dataset(Part):
    fingerprint: str
    classes: list[str]
    samples: dict[str, int]


class Model(Part):
    """What a model costs; an ensemble counts all its members."""

    name: str | None = None
    parameters: int
    bytes: int | None = None


class Speed(Part):
    """How fast a model answers."""

    latency_1: float = Field(gt=0)
    """Milliseconds of one sample, and of 64 at once."""
    latency_64: float = Field(gt=0)
    throughput: float = Field(gt=0)
    """Samples a second in full batches."""


class Speeds(Part):
    """Measured on one worker, all models in turn."""

    device: str
    threads: int
    batch: int
    """Of the throughput."""
    models: dict[str, Speed]


class Fidelity(Part):
    """How near the stored target of the ensemble is to the one that all logits would give."""

    rows: int
    temperature: float
    kl: float
    """Mean, in nats, from the full target to the stored one."""
    agreement: float
    ece_gap: float
    angle: float
    """Degrees between the gradients of the two."""


class Stored(Part):
    """The logit store that the students learned from."""

    codec: dict[str, Any]
    rows: int
    bytes: int
    bytes_per_row: float
    members: int
    shards: int
    views: int
    fidelity: Fidelity | None = None


class Results(Part):
    """The whole of results.json."""

    recipe: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str
    dataset: Dataset
    splits: dict[str, Split] = Field(min_length=1)
    models: dict[str, Model] = Field(default_factory=dict)
    speed: Speeds | None = None
    store: Stored | None = None
    """None where it no longer holds every member."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """On the clock, by stage."""
    cpu_seconds: dict[str, float] = Field(default_factory=dict)
    """What jobs held of cores, by stage; those of stages that the driver does itself are not counted."""
    gpu_seconds: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _confusion_is_square(self) -> "Results":
        classes = len(self.dataset.classes)
        for split in self.splits.values():
            for model, matrix in split.confusion.items():
                if len(matrix) != classes or any(len(row) != classes for row in matrix):
                    raise ValueError(f"the confusion of the {model} is not {classes} by {classes}")
        return self

    @property
    def main(self) -> str:
        """The split that the report is about: test, or the first where there is no test."""
        return "test" if "test" in self.splits else next(iter(self.splits))


def checked(value: "Mapping[str, Any] | Results", where: str = "results.json") -> Results:
    """The results with their types; `where` names the file in the message.

    Raises:
        UserError: a field is missing or is not what evaluation writes.
    """
    if isinstance(value, Results):
        return value
    try:
        return Results.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{where}: not the results of an evaluation ({f'{field}: ' if field else ''}{what}); "
            "run `kdscale evaluate` again"
        ) from None

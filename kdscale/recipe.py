"""The recipe: everything about a run in one typed YAML file.

First in the flow, below everything else: it knows no other part of kdscale. `recipe_files` reads one.
"""

from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0)]
"""A part of the samples: below 1 a fraction, from 1 on a count."""


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSpec(BaseModel):
    """A network: a name of the zoo or ``package.module:factory``, and the factory's own options."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str
    """mlp, convnet, resnet, wide_resnet, average, or ``package.module:factory``."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _model_spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Model = Annotated[ModelSpec, BeforeValidator(_model_spec)]


class ViewSpec(Section):
    """What an augmentation may do to a sample; all zero leaves it as it is."""

    jitter: int = Field(0, ge=0)
    """Shift by up to this many pixels, up or down and left or right, zeros moving in."""
    flip: bool = False
    """Mirror left to right, every other time."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Turn by up to this many degrees either way."""
    scale: float = Field(0.0, ge=0, lt=1)
    """Enlarge or shrink by up to this fraction."""

    @property
    def changes_nothing(self) -> bool:
        return self == ViewSpec()


class Data(Section):
    """Where the samples come from and in what order they are read."""

    source: str = "digits"
    """digits, digit_strings, idx, folder, npz, omniglot, parquet, shards, or ``package.module:function``."""
    path: str | None = None
    """File, folder or URL of the source; digits needs none, digit_strings MNIST's folder or none."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the source, such as column names of a parquet file."""
    validation: Share = 0.1
    """Part of the training samples kept for validation, if the source has no validation split."""
    test: Share = 0.2
    """Part of the samples kept for the test, if the source has no test split."""
    train: Annotated[float, Field(gt=0)] | None = None
    """Part of the training samples that is imported, once the other splits are cut: below 1 a fraction, from 1 on a count; all by
    default."""
    group: str | None = None
    """What the splits must not share: of a folder, a regular expression whose first group is found in a file's path, such as
    'airframe-([0-9]+)'; of arrays, the name of an array with one group for each sample. Splits are then cut by whole groups."""
    image_size: int | None = Field(None, ge=1)
    """Resize images to this many pixels a side when they are imported."""
    shard_size: int = Field(2048, ge=1)
    """Samples in a shard."""
    lanes: int = Field(8, ge=1)
    """Canonical sample streams; ranks own whole lanes, so the order is the same for any world size."""
    window: int = Field(8192, ge=1)
    """Samples within which a lane permutes, and the most that a restart reads again."""
    normalize: bool = True
    """Subtract the training split's mean and divide by its standard deviation, a channel each."""
    views: ViewSpec = ViewSpec()
    """The augmentation of the views that teachers label and students see."""


class Fitting(Section):
    """One fit loop's numbers."""

    epochs: float = Field(10, gt=0)
    """Passes over the training split; fractions are allowed."""
    batch_size: int = Field(128, ge=1)
    """Samples in a global batch."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """one_cycle: linear warm-up, then cosine to zero; cosine: no warm-up."""
    warmup: float = Field(0.3, ge=0, lt=1)
    """Fraction of the steps that one_cycle warms up for."""
    checkpoint_epochs: float = Field(1.0, gt=0)
    """Epochs between checkpoints."""
    cpus: int = Field(1, ge=1)
    """CPU cores, and threads, of one process."""
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """GPUs of one process; auto takes one each where the cluster has any, 0 keeps to the CPU."""


def _names(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, list) else value  # YAML reads 3 as a number


class Training(Fitting):
    """What teachers and students have in common."""

    model: Model
    share: float = Field(1.0, gt=0, le=1)
    """Fraction of the training samples that is learnt from: a teacher's own follows its seed, that of all students and controls
    the run's."""
    classes: Annotated[list[str] | None, BeforeValidator(_names)] = None
    """Classes whose samples are learnt from; all by default. A student still hears of the others from its teachers."""


class Teachers(Training):
    """The ensemble: members that differ in nothing but the seed."""

    section: ClassVar[str] = "teachers"

    count: int = Field(5, ge=1)
    """Number of members."""
    first_seed: int = Field(0, ge=0)
    """The members' seeds count up from here."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes products under autocast; weights stay float32."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd is plain gradient descent, without momentum."""
    max_norm: float | None = Field(None, gt=0)
    """Upper bound of the norm of each unit's incoming weights, after every step."""
    views: ViewSpec = ViewSpec()
    """Augmentation while training; it follows the member's seed."""
    weights: list[str] = Field(default_factory=list)
    """safetensors files of members that are finished, one for each seed in order: they are taken as they are, and none is trained."""
    pack: int | str = "auto"
    """Members that share a process and take their steps together; 1 trains each alone, auto measures once what is faster
    (and trains each alone where a student follows them, see student.quorum)."""
    retries: int = Field(2, ge=0)
    """How often a member is started again after a crash or an exception before it is reported as failed; those before its
    latest checkpoint do not count, and a loss that is no longer finite is reported at once."""
    placement: Literal["spread", "pack"] = "spread"
    """spread: over all nodes evenly; pack: onto as few nodes as hold them, for the others to stay free."""
    workers: int = Field(1, ge=1)
    """Ranks that train one member together, for members that are too big for one device."""
    deepspeed: dict[str, Any] | str = Field(default_factory=dict)
    """DeepSpeed configuration of such members, as student.deepspeed; one that is given is used by one worker as well."""

    @model_validator(mode="after")
    def _pack_is_known(self) -> "Teachers":
        if self.pack != "auto" and (isinstance(self.pack, str) or self.pack < 1):
            raise ValueError(
                f"pack: is {self.pack}; give the number of members that share a process, 1 for none, or auto"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_for_all(self) -> "Teachers":
        if self.weights and len(self.weights) != self.count:
            raise ValueError(
                f"weights: names {len(self.weights)} files for {self.count} members; give one for each, or none"
            )
        return self

    @model_validator(mode="after")
    def _groups_are_plain(self) -> "Teachers":
        if not self.grouped:
            return self
        if self.pack not in ("auto", 1):
            raise ValueError(f"pack: is {self.pack}, and members that DeepSpeed trains are not packed; take 1 or auto")
        if self.max_norm is not None:
            raise ValueError("max_norm: DeepSpeed has no such bound; leave it out, or take teachers.workers=1")
        if self.optimizer != "adamw":
            raise ValueError(
                f"optimizer: is {self.optimizer}, and DeepSpeed's own holds; leave it out, and name it in teachers.deepspeed"
            )
        if self.precision != "float32":
            raise ValueError(
                f"precision: is {self.precision}, and DeepSpeed's own holds; leave it out, and ask for bf16 or "
                "torch_autocast in teachers.deepspeed"
            )
        if self.gpus not in ("auto", 0, 1):
            raise ValueError(f"gpus: a rank takes 0 or 1 GPU or auto, not {self.gpus}; more ranks are teachers.workers")
        return self

    @property
    def grouped(self) -> bool:
        """Whether a member is trained by a group of DeepSpeed ranks."""
        return self.workers > 1 or bool(self.deepspeed)

    @property
    def seeds(self) -> list[int]:
        return list(range(self.first_seed, self.first_seed + self.count))


class Logits(Section):
    """How the members' outputs are stored."""

    codec: Literal["dense", "topk", "sampled"] = "dense"
    """dense: every logit; topk: the k largest and the tail's mass; sampled: unbiased counts of a few draws."""
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """Type of dense logits; int8 keeps an offset and a scale for each row."""
    k: int = Field(32, ge=1)
    """Logits that topk keeps."""
    draws: int = Field(12, ge=1)
    """Draws a row and member that sampled keeps."""
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    """Temperatures that topk (any number) or sampled (one) is to serve; the student's by default."""
    views: int = Field(1, ge=1)
    """Views stored of each sample; view 0 is the plain one."""
    path: str | None = None
    """Where stores are kept instead of RUN/logits: a folder, or an object store such as s3://bucket/prefix."""


class Fusion(Section):
    """How the members' outputs become one target; a string is short for the rule alone."""

    rule: Literal["mean_probability", "mean_logit"] = "mean_probability"
    members: list[int] | None = None
    """Seeds of the members that count; all by default."""
    without: list[int] = Field(default_factory=list)
    """Seeds of members that are left out."""
    weights: dict[int, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Weight of a seed's member, relative to the others' 1."""


def _fusion(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


class Student(Training):
    """The one model that is to be served."""

    section: ClassVar[str] = "student"

    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """One student, and one control, is trained for each."""
    temperature: float = Field(4.0, gt=0)
    """T of the soft targets; with a schedule, that of the first step."""
    temperature_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How T goes from `temperature` to `temperature_end` over the training; anything but constant needs logits.codec dense."""
    temperature_end: float | None = Field(None, gt=0)
    """T of the last step."""
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    """Of the soft term: KL(teacher, student), KL(student, teacher), or their bounded mean; sampled counts serve forward_kl
    alone."""
    match: Literal["mean_target", "mean_loss", "mimic_all"] = "mean_target"
    """What of several teachers is matched: their fused target, each one's target by the same outputs (the mean of the losses), or
    each one's by a head of its own on a shared trunk (Zuchniak 2023), whose mean softmax is then the student's."""
    fold: bool = False
    """Make one head of the heads of mimic_all when training ends, so that the student costs what it costs without them."""
    hard_weight: float = Field(0.1, ge=0)
    """Weight of the hard-label term, relative to the soft term's 1."""
    alpha: float | None = Field(None, ge=0, lt=1)
    """The convex weighting instead, alpha hard + (1 - alpha) soft; `hard_weight` is then 0."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each hard label that is spread over all classes, for student and control; soft targets stay as they are."""
    mixup: float = Field(0.0, ge=0)
    """Mix each sample, its label and its target with another one's, by Beta(mixup, mixup), for student and control; 0 is off."""
    keep: Literal["last", "best"] = "last"
    """Weights that students and controls end with: the last step's, or those of the epoch that made the fewest errors on the
    validation split."""
    control: bool = True
    """Also train the same student on hard labels alone, with the same budget."""
    quorum: int | None = Field(None, ge=1)
    """Begin as soon as so many members have labelled, take in others as they come, and have all in the last epoch; by
    default training begins when all are there."""
    deadline: float = Field(3600.0, gt=0)
    """Seconds without news after which a student that waits for members gives up."""
    workers: int = Field(2, ge=1)
    """Data-parallel ranks."""
    deepspeed: dict[str, Any] | str = Field(default_factory=dict)
    """DeepSpeed configuration: a JSON file or a mapping; kdscale fills in the batch sizes."""

    @model_validator(mode="before")
    @classmethod
    def _alpha_replaces_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("alpha") is not None:
            return {"hard_weight": 0.0, **values}
        return values

    @property
    def weights(self) -> tuple[float, float]:
        """Of the soft and of the hard term."""
        return (1.0, self.hard_weight) if self.alpha is None else (1 - self.alpha, self.alpha)

    @model_validator(mode="after")
    def _objective_is_whole(self) -> "Student":
        if self.alpha is not None and self.hard_weight:
            raise ValueError(
                f"alpha: is {self.alpha:g} and hard_weight {self.hard_weight:g}, two weightings of the same term; "
                "leave one out, or set hard_weight to 0"
            )
        if self.temperature_schedule == "constant" and self.temperature_end is not None:
            raise ValueError(
                f"temperature_end: is {self.temperature_end:g} and temperature_schedule constant; "
                "take linear or cosine, or leave it out"
            )
        if self.temperature_schedule != "constant" and self.temperature_end is None:
            raise ValueError(
                f"temperature_schedule: {self.temperature_schedule} needs temperature_end, the last step's T"
            )
        if self.fold and self.match != "mimic_all":
            raise ValueError(
                f"fold: match is {self.match}, which has no heads to fold; take match=mimic_all, or leave it out"
            )
        if self.label_smoothing and not self.weights[1] and not self.control:
            raise ValueError(
                f"label_smoothing: is {self.label_smoothing:g} and no label is learned from; "
                "give hard_weight or alpha, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Student":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each student needs its own seed")
        if self.gpus not in ("auto", 0, 1):
            raise ValueError(f"gpus: a rank takes 0 or 1 GPU or auto, not {self.gpus}; more ranks are student.workers")
        return self


class Joint(Section):
    """A control of the ensemble: the average of N networks, (F1 + ... + FN) / N, trained as one network on the labels.

    It is trained with the teachers' settings, so that it differs from the ensemble in nothing but being trained jointly.
    """

    networks: int = Field(0, ge=0)
    """N; 0 trains no such control."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """One control is trained for each."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Joint":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each control needs its own seed")
        return self


class Specialists(Fitting):
    """Models for sets of confusable classes, trained from the generalist (Hinton, Vinyals & Dean 2015, section 5)."""

    count: int = Field(0, ge=0)
    """Specialists of each generalist; 0 trains none."""
    classes: int = Field(50, ge=1)
    """Classes of each."""
    generalist: Literal["student", "control"] = "student"
    """Which model they begin as: the student of each seed, or the control, which was trained on the labels alone."""
    overlap: Literal["nearest", "none"] = "nearest"
    """nearest: each takes the classes nearest to its cluster's centre, so that sets may overlap; none: each class to one at
    most."""
    active: int = Field(1, ge=1)
    """n: specialists whose classes meet the generalist's n most probable ones take part in an answer."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of a batch that is of the specialist's own classes."""
    soft_rest: bool = False
    """Teach the generalist's opinion on samples of other classes, instead of the hard dustbin."""
    dustbin: Literal["all", "one"] = "all"
    """all: the logsumexp of the outputs of all other classes; one: a single output, which is smaller."""
    shift: Literal["exact", "paper"] = "exact"
    """Of the dustbin's logit after training, for the oversampling of own classes: Bayes' rule, or the paper's log proportion."""
    views: ViewSpec = ViewSpec()
    """Augmentation while training; it follows the specialist's seed."""
    distil: bool = False
    """Also train the student from what generalist and specialists say together: back into one net."""
    mixture: bool = False
    """Also train the control: a mixture of as many experts with a learnt gate, on as many samples."""


class Evaluate(Section):
    bins: int = Field(15, ge=2)
    """Bins of the calibration error and of the reliability diagram."""


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class WandB(Section):
    mode: Annotated[Literal["online", "offline", "off"], BeforeValidator(_off)] = "off"
    project: str = "kdscale"
    entity: str | None = None
    base_url: str | None = None
    """Server; without it WANDB_BASE_URL or W&B's own."""
    tags: list[str] = Field(default_factory=list)


class Tracking(Section):
    wandb: WandB = WandB()


class Cluster(Section):
    address: str | None = None
    """Address of a running Ray to join; without it RAY_ADDRESS, else a Ray of this machine alone is started."""
    cpus: int | None = Field(None, ge=1)
    """Cores that a local Ray may use; all by default."""
    cpu_hour: float = Field(0.0, ge=0)
    """Price of a core for an hour, in any currency; the report then has the cost of each stage."""
    gpu_hour: float = Field(0.0, ge=0)
    """Price of a GPU for an hour."""


class Recipe(Section):
    """Everything about a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run directory, runs/NAME, and the W&B group."""
    seed: int = Field(0, ge=0)
    """Seed of the splits, shards and views; members and students have seeds of their own."""
    data: Data = Data()
    teachers: Teachers
    logits: Logits = Logits()
    fusion: Annotated[Fusion, BeforeValidator(_fusion)] = Fusion()
    student: Student
    joint: Joint = Joint()
    specialists: Specialists = Specialists()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()

    @property
    def fused_seeds(self) -> list[int]:
        """Seeds of the members that a target is made of."""
        asked = self.teachers.seeds if self.fusion.members is None else self.fusion.members
        return [seed for seed in self.teachers.seeds if seed in asked and seed not in self.fusion.without]

    @model_validator(mode="after")
    def _members_exist(self) -> "Recipe":
        fusion, seeds = self.fusion, self.teachers.seeds
        for name in ("members", "without", "weights"):
            strangers = [seed for seed in getattr(fusion, name) or () if seed not in seeds]
            if strangers:
                raise ValueError(
                    f"fusion.{name}: {strangers[0]} is no member's seed; the teachers' are {seeds[0]} to {seeds[-1]}"
                )
        if not self.fused_seeds:
            raise ValueError("fusion: no member is left; name fewer in fusion.without")
        if self.student.match != "mean_target" and self.fusion.rule != "mean_probability":
            raise ValueError(
                f"student.match: {self.student.match} matches each member by itself, and fusion {self.fusion.rule} mixes their "
                "logits first; take fusion mean_probability, or match mean_target"
            )
        if self.student.quorum is not None and self.student.quorum > len(self.fused_seeds):
            raise ValueError(
                f"student.quorum is {self.student.quorum} and the ensemble has {len(self.fused_seeds)} members; lower it"
            )
        return self

    @model_validator(mode="after")
    def _generalist_is_trained(self) -> "Recipe":
        if self.specialists.count and self.specialists.generalist == "control" and not self.student.control:
            raise ValueError(
                "specialists.generalist: is control, and student.control is false; set it to true, or take generalist student"
            )
        return self

    @model_validator(mode="after")
    def _codec_serves(self) -> "Recipe":
        logits = self.logits
        if logits.codec == "dense":
            return self
        if self.fusion.rule != "mean_probability":
            raise ValueError(
                f"logits.codec: {logits.codec} keeps too little for fusion {self.fusion.rule}; take codec dense"
            )
        if self.student.temperature_schedule != "constant":
            raise ValueError(
                f"student.temperature_schedule: {logits.codec} serves only temperatures that it was told; "
                "take logits.codec dense, or a constant temperature"
            )
        if logits.codec == "sampled" and self.student.divergence != "forward_kl":
            raise ValueError(
                f"student.divergence: counts of a few draws give no unbiased {self.student.divergence}, which is not "
                "linear in the target; take logits.codec dense or topk, or divergence forward_kl"
            )
        if logits.temperatures and self.student.temperature not in logits.temperatures:
            raise ValueError(
                f"logits.temperatures: {logits.temperatures} lacks student.temperature {self.student.temperature}; add it"
            )
        if logits.codec == "sampled" and len(logits.temperatures) > 1:
            raise ValueError("logits.temperatures: sampled serves one temperature; name one, or take codec topk")
        return self

    @model_validator(mode="after")
    def _batches_fit(self) -> "Recipe":
        lanes = self.data.lanes
        parts: list[tuple[str, Teachers | Student]] = [("teachers", self.teachers), ("student", self.student)]
        for section, part in parts:
            if part.batch_size % lanes:
                raise ValueError(
                    f"{section}.batch_size is {part.batch_size}, which data.lanes = {lanes} does not divide; "
                    f"take a multiple of {lanes} or other lanes"
                )
            if lanes % part.workers:
                raise ValueError(
                    f"{section}.workers is {part.workers}, which does not divide data.lanes = {lanes}; "
                    "ranks own whole lanes"
                )
        return self

    def dump(self) -> str:
        """The recipe as YAML, with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)

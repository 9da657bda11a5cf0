"""What is asked of Slurm, checked as far as that goes without a cluster."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdscale.errors import UserError

OURS = {
    "array": "one job is one run; members share an allocation",
    "wrap": "the script is kdscale's",
    "signal": "say how many seconds before the end with --grace",
    "output": "the log lies in RUN/jobs under the job's id",
    "error": "the log lies in RUN/jobs under the job's id",
    "open-mode": "a requeued job appends to its log",
    "ntasks": "one task a node starts Ray there",
    "ntasks-per-node": "one task a node starts Ray there",
    "no-kill": "say what a lost node means with --on-lost-node",
}
"""Options of sbatch that the script sets itself, and why."""
SHORT = {"a": "array", "o": "output", "e": "error", "n": "ntasks", "k": "no-kill"}
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<plain>\d+(?::\d+){0,2}))$")
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")


@dataclass(frozen=True)
class Options:
    """All that a script is made of."""

    recipe: str
    run: str
    """The run directory, on a filesystem that all nodes share."""
    verb: str = "run"
    overrides: tuple[str, ...] = ()
    name: str = "kdscale"
    output: str = "%x-%j.log"
    nodes: int = 1
    gpus_per_node: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, such as ``--qos=high``."""
    grace: int = 120
    """Seconds before the time limit, or the end by pre-emption, at which saving begins."""
    requeue: bool = True
    on_lost_node: Literal["continue", "requeue"] = "continue"
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    """Lines of shell before anything is started."""
    env: tuple[str, ...] = ()
    path: str | None = None
    """Folder with the kdscale and ray commands."""
    interface: str | None = None
    """Network interface of Ray, NCCL and gloo."""
    container: Literal["apptainer", "pyxis"] | None = None
    image: str | None = None
    mounts: tuple[str, ...] = ()
    restarts: int = 5
    """How often the loss of Ray's head requeues the job."""


def check(options: Options) -> Options:
    """The options, if a script can be made of them.

    Raises:
        UserError: a value that Slurm would misread, or that contradicts another.
    """
    if options.nodes < 1:
        raise UserError(f"--nodes {options.nodes}: a job has at least one node")
    if options.gpus_per_node is not None and options.gpus_per_node < 0:
        raise UserError(f"--gpus-per-node {options.gpus_per_node}: give 0 or more, or leave it out")
    if options.grace < 20:
        raise UserError(f"--grace {options.grace}: saving and ending take seconds; give 20 or more")
    for setting in options.env:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", setting):
            raise UserError(f"--env {setting}: is not of the form NAME=VALUE")
    if options.time is not None:
        limit = seconds(options.time)
        if limit is not None and limit <= options.grace:
            raise UserError(
                f"--time {options.time} leaves nothing beside --grace {options.grace} (seconds for saving); "
                "lengthen the one or shorten the other"
            )
    for value in (options.recipe, options.run, options.name, *options.overrides, *options.sbatch, *options.env):
        if "\n" in value:
            raise UserError(f"{value.splitlines()[0]}...: a line break cannot go into an sbatch script; take it out")
    return options


def seconds(time: str) -> int | None:
    """A time limit as Slurm writes them; None for no limit.

    Raises:
        UserError: it is none of Slurm's forms.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = _TIME.match(time)
    if found is None:
        raise UserError(
            f"--time {time}: is no time of Slurm's; write HOURS:MINUTES:SECONDS, DAYS-HOURS or MINUTES, such as 24:00:00"
        )
    if found["days"]:
        days, hours, minutes, rest = (int(found[part] or 0) for part in ("days", "dh", "dm", "ds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    parts = [int(part) for part in found["plain"].split(":")]
    if len(parts) == 3:
        return (parts[0] * 60 + parts[1]) * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)  # minutes, or minutes:seconds


def passed_on(tokens: Sequence[str]) -> tuple[str, ...]:
    """Options that are sbatch's and not ours, each as one word: ``--qos high`` becomes ``--qos=high``, ``-q high`` stays.

    Raises:
        UserError: a word that belongs to no option, or an option that the script sets itself.
    """
    found: list[str] = []
    rest = list(tokens)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            hint = "; values that replace the recipe's come last, after --" if "=" in word else ""
            raise UserError(f"'{word}' belongs to no option{hint}")
        name = word.lstrip("-").partition("=")[0]
        name = name if word.startswith("--") else SHORT.get(name[:1], name)
        if name in OURS:
            raise UserError(f"{word}: is set by kdscale's script ({OURS[name]}); leave it out")
        valued = rest and "=" not in word and not rest[0].startswith("-") and not _OVERRIDE.match(rest[0])
        if valued:
            word = f"{word}{'=' if word.startswith('--') else ' '}{rest.pop(0)}"
        found.append(word)
    return tuple(found)

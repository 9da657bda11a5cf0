"""Options -> sbatch script: a pure function."""

import shlex
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from launcher.slurm.options import Options


def render(options: Options) -> str:
    """The script, ready for sbatch; the same options give the same text."""
    return _template().render(o=options, directives=directives(options))


def directives(options: Options) -> list[str]:
    """What follows ``#SBATCH`` on each line that the options ask for; the template adds those that never change."""
    asked = [f"--job-name={options.name}", f"--nodes={options.nodes}"]
    if options.gpus_per_node is not None:
        asked.append(f"--gpus-per-node={options.gpus_per_node}")
    for name in ("time", "partition", "account"):
        if (value := getattr(options, name)) is not None:
            asked.append(f"--{name}={value}")
    return [_quoted(line) for line in (*asked, *options.sbatch)]


def _quoted(line: str) -> str:
    """sbatch reads its lines as a shell does; a short option and its value are two words."""
    if not line.startswith("--"):
        return " ".join(shlex.quote(word) for word in line.split(" ", 1))
    name, equals, value = line.partition("=")
    return f"{name}{equals}{shlex.quote(value) if value else ''}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("launcher.slurm", "."),
        undefined=StrictUndefined,
        autoescape=False,  # a shell script; values are quoted for the shell
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = shlex.quote
    return environment.get_template("run.sbatch.j2")

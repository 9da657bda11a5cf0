"""What each stage took and cost: time on the clock, hours of cores and GPUs that its jobs held, and their price."""

from typing import Any, NamedTuple

from kdscale.report import figures
from kdscale.report.results import Results
from kdscale.report.table import NOTHING

HOUR = 3600.0
SUM = "together"


class Prices(NamedTuple):
    """Of an hour of one core and of one GPU, in whatever currency the recipe means."""

    cpu: float = 0.0
    gpu: float = 0.0

    @classmethod
    def of(cls, recipe: Any) -> "Prices":
        """As a recipe's tree has them; zero where it does not."""
        cluster = recipe.get("cluster") if isinstance(recipe, dict) else None
        found = cluster if isinstance(cluster, dict) else {}
        cpu, gpu = (found.get(name) for name in ("cpu_hour", "gpu_hour"))
        return cls(*(float(price) if isinstance(price, int | float) else 0.0 for price in (cpu, gpu)))


class Stages(NamedTuple):
    """A table: headings, a row a stage, the sum last."""

    headings: list[str]
    rows: list[list[str]]


def stages(results: Results, prices: Prices) -> Stages | None:
    """The stages in the order of the run; none where no time is known.

    Columns that would be empty are left out: GPU-hours where no GPU was used, the cost where nothing has a price. Stages that the
    driver does itself hold nothing of the cluster.
    """
    whole = sum(results.seconds.values())
    if not whole:
        return None
    held = [("core-hours", results.cpu_seconds), ("GPU-hours", results.gpu_seconds)]
    shown = [(heading, of_stage) for heading, of_stage in held if any(of_stage.values())]
    priced = bool(shown) and any(prices)
    rows = []
    for stage in [*results.seconds, SUM]:
        seconds, cpu, gpu = (
            sum(kind.values()) if stage == SUM else kind.get(stage, 0.0)
            for kind in (results.seconds, results.cpu_seconds, results.gpu_seconds)
        )
        row = [stage, figures.duration(seconds), f"{seconds / whole:.0%}"]
        row += [hours(cpu if of_stage is results.cpu_seconds else gpu) for _, of_stage in shown]
        if priced:
            row.append(_amount((cpu * prices.cpu + gpu * prices.gpu) / HOUR))
        rows.append(row)
    headings = ["stage", "time", "of the whole", *(heading for heading, _ in shown), *(["cost"] if priced else [])]
    return Stages(headings, rows)


def hours(seconds: float) -> str:
    """Seconds in hours."""
    return _small(seconds / HOUR, 3)


def _amount(money: float) -> str:
    return _small(money, 2)


def _small(value: float, places: int) -> str:
    """With so many decimals, none from a hundred on, and "<" where they would not show it."""
    if not value:
        return NOTHING
    least = 10.0**-places
    if value < least:
        return f"< {least:.{places}f}"
    return f"{value:,.{places if value < 100 else 0}f}"

"""What all benchmarks share: the command line, figures with their bounds, timing side by side, and the output.

A benchmark is a list of sections, functions that measure one thing and return its figures. `main` runs them, prints a
table, and with --json one JSON object as the last line. A figure that falls short of its bound is printed like the
others and does not change the exit code: a benchmark reports, it does not judge.
"""

import argparse
import json
import operator
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    bound: str | None = None
    """A comparison and a number, such as ">= 0.7"; None for a number that nothing is asked of."""

    @property
    def holds(self) -> bool | None:
        if self.bound is None:
            return None
        sign, number = self.bound.split()
        return bool(_COMPARE[sign](self.value, float(number)))


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    quick: bool
    data: Path | None


Section = Callable[[Options], list[Figure]]


def main(description: str, sections: Sequence[Section]) -> None:
    """Run a benchmark from the command line."""
    names = [section.__name__ for section in sections]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="smaller and rougher, in under a minute")
    parser.add_argument("--data", type=Path, help="folder with the idx files of MNIST")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="run these sections alone")
    asked = parser.parse_args()
    start = time.perf_counter()
    figures = []
    for section in sections:
        if section.__name__ in asked.only:
            print(f"\n== {section.__name__}", flush=True)
            figures += section(Options(asked.quick, asked.data))
    seconds = time.perf_counter() - start
    print(f"\n== figures ({seconds:.0f} s)")
    print(table(["figure", "value", "unit", "bound", "holds"], [_row(figure) for figure in figures]), flush=True)
    if asked.json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        print(json.dumps({"figures": rows, "machine": machine(), "seconds": round(seconds, 1)}))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under a head, in columns."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(ways: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each way in each round: all take their turn in every round, after one that is not counted.

    What slows the machine down for a while then slows all ways alike.
    """
    for way in ways:
        way()
    times = [[seconds_of(way) for way in ways] for _ in range(rounds)]
    return [list(column) for column in zip(*times, strict=True)]


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median over rounds of one way's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _row(figure: Figure) -> list[str]:
    holds = {True: "yes", False: "NO", None: ""}[figure.holds]
    return [figure.name, f"{figure.value:.4g}", figure.unit, figure.bound or "", holds]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()

"""Losses over time from metrics.jsonl, thinned to what a figure can show.

The file is written line by line by many processes; a process that was killed may leave a torn line, and one
that was resumed repeats steps. Torn lines are counted and passed over, and of a repeated step the last counts.
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from kdscale.errors import UserError

POINTS = 160
"""A curve with more points is averaged down to so many."""


class Curve(NamedTuple):
    epochs: list[float]
    values: list[float]


class Curves(NamedTuple):
    """Losses of a run, by stage and job, and by field: `curves["student"]["student-seed-0"]["soft"]`."""

    by_stage: dict[str, dict[str, dict[str, Curve]]]
    torn: int
    """Lines that are not JSON."""


def read(path: Path) -> Curves:
    """The loss curves of metrics.jsonl; none where there is no such file.

    Raises:
        UserError: the file is there and cannot be read, or holds no JSON line at all.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return Curves({}, 0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend that or move it away") from None
    rows, torn = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            torn += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
    if torn and not rows:
        raise UserError(f"{path}: holds no line of JSON; move it away to make the report without its curves")
    return Curves(_collect(rows), torn)


def _collect(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Curve]]]:
    points: dict[tuple[str, str, str], dict[float, tuple[float, float]]] = defaultdict(dict)
    for row in rows:
        stage, job = row.get("stage"), row.get("job")
        step, epoch = _number(row.get("step")), _number(row.get("epoch"))
        if not isinstance(stage, str) or not isinstance(job, str) or step is None or epoch is None:
            continue
        for field in ("loss", "soft", "hard"):
            value = _number(row.get(field))
            if value is not None:
                points[stage, job, field][step] = (epoch, value)
    found: dict[str, dict[str, dict[str, Curve]]] = {}
    for (stage, job, field), by_step in sorted(points.items()):
        ordered = [by_step[step] for step in sorted(by_step)]
        found.setdefault(stage, {}).setdefault(job, {})[field] = _thinned(ordered)
    return found


def _thinned(points: list[tuple[float, float]]) -> Curve:
    size = math.ceil(len(points) / POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return Curve(*([math.fsum(point[axis] for point in group) / len(group) for group in groups] for axis in (0, 1)))


def _number(value: Any) -> float | None:
    """The value if it is a finite number: a loss that became NaN has no place on an axis."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None

"""What each stage took, in RUN/stages.json: seconds on the clock, and the seconds of cores and GPUs that its jobs held.

    {"teachers": {"fingerprint": "ab12...", "seconds": 63.0, "cpu_seconds": 121.5, "gpu_seconds": 0.0}}

An account begins anew with another artefact: what was spent on an earlier one is not what this one cost.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdscale.files import read_json, write_json

STAGES = "stages.json"
KINDS = ("seconds", "cpu_seconds", "gpu_seconds")


@dataclass
class Stretch:
    """A timed stretch of a stage."""

    other: float = 0.0
    """Seconds inside that belong to another stage."""


class Accounts:
    def __init__(self, folder: Path):
        self._path = folder / STAGES
        self._booked: dict[str, tuple[float, float]] = {}

    def book(self, stage: str, cpus: float, gpus: float, seconds: float) -> None:
        """A job of a stage held so many cores and GPUs for so long; written when the stage's time is."""
        cores, devices = self._booked.get(stage, (0.0, 0.0))
        self._booked[stage] = cores + cpus * seconds, devices + gpus * seconds

    @property
    def booked(self) -> list[str]:
        """Stages with jobs that are not written yet."""
        return list(self._booked)

    @contextmanager
    def timed(self, stage: str, fingerprint: str = "") -> Iterator[Stretch]:
        """Add the time spent inside to the stage's account, less what is another's."""
        start, stretch = time.monotonic(), Stretch()
        try:
            yield stretch
        finally:
            self.spend(stage, fingerprint, time.monotonic() - start - stretch.other)

    def spend(self, stage: str, fingerprint: str, seconds: float = 0.0) -> None:
        """Add to a stage's account on the clock, and what its jobs have held."""
        write_json(self._path, self._after(stage, fingerprint, seconds))
        self._booked.pop(stage, None)

    def totals(self, stage: str, fingerprint: str, seconds: float) -> dict[str, dict[str, float]]:
        """By kind and stage, over all commands that worked on the present artefacts, were this to be spent now."""
        accounts = self._after(stage, fingerprint, seconds)
        return {kind: {name: account.get(kind, 0.0) for name, account in accounts.items()} for kind in KINDS}

    def seconds(self) -> dict[str, float]:
        """On the clock, by stage."""
        return {stage: account["seconds"] for stage, account in self._read().items()}

    def _after(self, stage: str, fingerprint: str, seconds: float) -> dict[str, Any]:
        accounts = self._read()
        account = accounts.get(stage, {})
        before = account if account.get("fingerprint") == fingerprint else {}
        added = zip(KINDS, (seconds, *self._booked.get(stage, (0.0, 0.0))), strict=True)
        spent = {kind: round(before.get(kind, 0.0) + more, 3) for kind, more in added}
        return {**accounts, stage: {"fingerprint": fingerprint, **spent}}

    def _read(self) -> dict[str, Any]:
        return read_json(self._path) or {}

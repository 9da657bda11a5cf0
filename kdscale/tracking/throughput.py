"""How fast the logit store grows: the driver's own record of the logits stage, a row every few seconds."""

import time
from collections.abc import Callable

from kdscale.tracking.job import JobTracker

EVERY = 2.0
"""Seconds between two rows at least."""


class Throughput:
    """Counts blocks and rows as they are committed; opens its record with the first of them."""

    def __init__(self, opens: Callable[[int], JobTracker]):
        self._opens = opens
        self._record: JobTracker | None = None
        self._rows = self._said = 0
        self._begun = self._last = 0.0
        self._blocks = 0

    def start(self) -> None:
        """A member begins to label; the clock runs from the first of them."""
        self._begun = self._begun or time.monotonic()
        self._last = self._last or self._begun

    @property
    def begun(self) -> bool:
        return self._record is not None

    def add(self, blocks: int, new: int, rows: int) -> None:
        """`blocks` are in the store now, `new` of them with so many `rows` since the last call."""
        now = time.monotonic()
        if self._record is None:
            self._record = self._opens(blocks - new)
        self._blocks, self._rows = blocks, self._rows + rows
        if now - self._last >= EVERY:
            self._log(now)

    def close(self, **summary: float) -> None:
        """Log what is left, and what the whole came to."""
        if self._record is None:
            return
        if self._rows > self._said:
            self._log(time.monotonic())
        self._record.summary(**{f"store/{name}": value for name, value in summary.items()})
        self._record.close()
        self._record = None

    def _log(self, now: float) -> None:
        assert self._record is not None
        rate = (self._rows - self._said) / max(now - self._last, 1e-9)
        self._record.log(
            self._blocks,
            **{
                "store/blocks": self._blocks,
                "store/rows": self._rows,
                "store/rows_per_second": round(rate, 3),
                "store/seconds": round(now - self._begun, 3),
            },
        )
        self._said, self._last = self._rows, now

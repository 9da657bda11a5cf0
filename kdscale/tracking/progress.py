"""Progress: bars with rates and time left on a terminal, plain lines in a log file."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY = 10.0


class Bars:
    """Named bars; off a terminal a line for each that moves, every ten seconds, and one when it is full."""

    def __init__(self, console: Console):
        self.console = console
        self.live = console.is_terminal
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not self.live, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._remarks: set[str] = set()
        self._said: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, name: str, completed: int, total: int, note: str = "") -> None:
        """Set a bar, making it if it is new."""
        if self.live:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, note=note)
            self._progress.update(self._tasks[name], completed=completed, total=total, note=note)
            return
        when, last = self._said.get(name, (time.monotonic(), -1))
        full = completed >= total
        if (full and last < total) or (completed > last and time.monotonic() - when > _LINE_EVERY):
            self.console.print(f"{name}: {completed}/{total} {note}".rstrip(), highlight=False)
            self._said[name] = (time.monotonic(), completed)
        else:
            self._said.setdefault(name, (when, last))

    def hide(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def remark(self, text: str) -> None:
        """Say something that is found again and again, once."""
        if text not in self._remarks:
            self._remarks.add(text)
            self.say(text)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

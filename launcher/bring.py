"""Bringing a run up to a stage, as every verb does that trains: one driver a run, signals that save, a connection to Ray."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kdscale.errors import Stopped
from launcher.options import bars

Connect = Callable[[Any, Callable[[], bool]], AbstractContextManager[None]]
"""(cluster section, whether to give up) -> a connection to Ray."""


def bring(
    last: str,
    recipe: Any,
    folder: Path,
    fresh: bool = False,
    then: Callable[[Any, Any], None] = lambda run, bars: None,
    connect: Connect | None = None,
) -> Any:
    """Bring the run of a recipe up to a stage, and do what is to be done `then`; the run.

    Args:
        connect: to Ray; by default for this run alone.
    """
    from kdscale.pipeline import data, stages
    from kdscale.pipeline import run as runs
    from kdscale.tracking.status import stop_file
    from launcher import local

    if fresh and folder.exists():
        runs.check_is_run(folder)
        with runs.only_driver(folder):
            print(f"{folder} set aside as {runs.set_aside(folder)}", file=sys.stderr)
    runs.check(folder, recipe)
    with runs.only_driver(folder), bars() as shown:
        opened, changes = runs.open_run(folder.resolve(), recipe, tentative=True)
        if changes:
            shown.say(f"the recipe differs from the last one run here: {'; '.join(changes)}")
        if remark := data.changed_source(opened):
            shown.say(f"note: {remark}")
        with _stop_on_signals(opened.folder):
            stopped = stop_file(opened.folder).exists
            joined = connect or partial(local.connection, run=opened.folder)
            stages.advance(opened, last, partial(joined, recipe.cluster, stopped), shown)
            then(opened, shown)
    return opened


@contextmanager
def _stop_on_signals(folder: Path) -> Iterator[None]:
    """Turn SIGTERM, SIGUSR1 and the first Ctrl-C into a request to save and end."""
    from kdscale.tracking.status import stop_file

    interrupted = False

    def request(number: int, frame: Any) -> None:
        nonlocal interrupted
        stop_file(folder).touch()
        print("stopping: what is under way is being saved", file=sys.stderr)
        if number == signal.SIGINT:
            interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    except Stopped as stopped:
        stopped.interrupted = interrupted
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The same function over many arguments, in this process or in several; errors arrive as they were raised."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from kdscale.errors import RunFailure

A = TypeVar("A")
R = TypeVar("R")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[A], R],
    arguments: Sequence[A],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initial: tuple[Any, ...] = (),
) -> Iterator[tuple[int, R]]:
    """Yield (index, result) as results arrive; with one worker, in order and in this process.

    Workers are spawned, not forked: the caller may hold threads. The first error ends it, whatever has not begun
    is dropped.

    Raises:
        RunFailure: a worker was killed.
    """
    workers = min(workers, len(arguments))
    if workers <= 1:
        if initializer is not None:
            initializer(*initial)
        for index, argument in enumerate(arguments):
            yield index, function(argument)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initial) as executor:
        with _no_main():
            futures = {executor.submit(function, argument): index for index, argument in enumerate(arguments)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise RunFailure(
                f"importing: one of {workers} worker processes was killed, perhaps for want of memory; "
                "run the same command again"
            ) from None
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _no_main() -> Iterator[None]:
    """Spawned workers import the caller's script anew, which a script without a main guard does not survive.

    Nothing of ours lives there, so they are shown an empty one.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main

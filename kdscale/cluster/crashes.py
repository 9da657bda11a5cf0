"""What can happen to work on other nodes: which errors are crashes, and what they say."""

import traceback
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from kdscale.errors import RunFailure, Stopped, UserError


class LostRank(Exception):
    """The peers of a rank failed and it gave no sign itself: its node is gone, and Ray has not noticed yet."""


CRASHES = (
    LostRank,
    WorkerCrashedError,
    NodeDiedError,
    LocalRayletDiedError,
    OutOfMemoryError,
    ObjectLostError,
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    TaskUnschedulableError,
)
"""A process or node is gone: try again elsewhere. What a job itself raises is left to whoever submitted it."""
PATIENCE = 30.0
"""Seconds given to a rank to say why its peers failed, and to a node to come back before needs are called too large."""


def cause_of(error: BaseException) -> BaseException:
    """What a task itself raised."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def error_of(reference: Any) -> Exception | None:
    try:
        ray.get(reference)
    except Exception as error:
        return error
    return None


def weight(error: Exception) -> int:
    """0: the job's own words; 1: a crash, or a bug; 2: what may only follow from what happened to another rank."""
    cause = cause_of(error)
    if isinstance(cause, UserError | RunFailure | Stopped | OSError):
        return 0
    return 2 if isinstance(cause, RuntimeError) and not isinstance(error, CRASHES) else 1


def traceback_of(error: BaseException) -> str:
    """The traceback where it was raised: on the worker, with the source lines there."""
    if isinstance(error, RayTaskError):
        return str(error.traceback_str)
    own = "".join(traceback.format_exception(error, chain=False))
    return own if error.__cause__ is None else f"{own}\n{traceback_of(error.__cause__)}"

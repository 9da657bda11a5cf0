"""Work on Ray: independent tasks as resources allow, and groups of ranks that train one model together.

Ray must be connected already (the launcher's business). Nothing large passes through here: functions get paths and
recipes and leave their results in the run directory.
"""

import heapq
import itertools
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

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
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from kdscale.errors import RunFailure, Stopped, UserError, in_a_line


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
POLL = 0.25
PATIENCE = 30.0
"""Seconds given to a rank to say why its peers failed, and to a node to come back before needs are called too large."""
Tick = Callable[[], None]
Placement = Literal["spread", "pack"]


@dataclass(frozen=True)
class Needs:
    """What one process takes."""

    cpus: int = 1
    gpus: float = 0.0

    def __mul__(self, n: int) -> "Needs":
        return Needs(self.cpus * n, self.gpus * n)

    def __add__(self, other: "Needs") -> "Needs":
        return Needs(self.cpus + other.cpus, self.gpus + other.gpus)

    def fits(self, whole: "Needs") -> bool:
        return self.cpus <= whole.cpus and self.gpus <= whole.gpus + 1e-9


def capacity() -> Needs:
    """What the whole cluster has at this moment."""
    resources = ray.cluster_resources()
    return Needs(int(resources.get("CPU", 0)), resources.get("GPU", 0.0))


def nodes() -> dict[str, Needs]:
    """What each node has, by Ray's id of it."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {name: Needs(int(has.get("CPU", 0)), has.get("GPU", 0.0)) for name, has in alive.items()}


def largest_node() -> Needs:
    """What the best single node has, in each respect."""
    every = nodes().values()
    return Needs(max((has.cpus for has in every), default=0), max((has.gpus for has in every), default=0.0))


def fullest(whole: dict[str, Needs], sent: dict[str, Needs], wanted: Needs) -> str | None:
    """Of the nodes that have room, the one in use with the least of it; else the largest; None if none has."""
    left = {
        name: (has.gpus - taken.gpus, has.cpus - taken.cpus)
        for name, has in whole.items()
        if (wanted + (taken := sent.get(name, Needs(0, 0)))).fits(has)
    }
    used = [name for name in left if name in sent]
    if used:
        return min(used, key=lambda name: (left[name], name))
    return max(left, key=lambda name: (left[name], name), default=None)


def whereabouts() -> dict[str, str]:
    """Where this process runs: the host, and on Ray the node's id and address.

    Several nodes of a Ray may share a host, so the host's name alone would not tell them apart.
    """
    host = socket.gethostname()
    if not ray.is_initialized():
        return {"node": host}
    name = ray.get_runtime_context().get_node_id()
    return {"node": f"{host}/{name[:8]}", "node_id": name, "address": ray.util.get_node_ip_address()}


def places(one: Needs) -> int:
    """How many processes of a kind the cluster as it stands can run at once; at least 1."""
    whole = capacity()
    by_gpus = [int(whole.gpus / one.gpus + 1e-9)] if one.gpus else []
    return max(1, min([whole.cpus // max(1, one.cpus), *by_gpus]))


def needs(cpus: int, gpus: float | str) -> Needs:
    """Resolve the recipe's cpus and gpus: "auto" is one GPU where the cluster has any."""
    return Needs(cpus, float(gpus) if gpus != "auto" else float(capacity().gpus > 0))


@dataclass(order=True)
class _Job:
    rank: tuple[int, int]
    name: str = field(compare=False)
    function: Callable[..., Any] = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False)
    needs: Needs = field(compare=False)
    retries: int = field(compare=False)
    done: Callable[[Any], None] = field(compare=False)
    failed: Callable[[Exception], None] | None = field(compare=False, default=None)
    ranks: int = field(compare=False, default=0)
    """Of a group that runs it; 0 for a task."""
    node: str | None = field(compare=False, default=None)
    """Where it was sent, if that was chosen here."""

    @property
    def takes(self) -> Needs:
        return self.needs * max(1, self.ranks)


class _Queue:
    """Jobs in order of urgency, their retries and failures: what tasks and groups have in common."""

    def __init__(self, tick: Tick, stopped: Callable[[], bool]):
        """`tick` is called a few times a second; once `stopped`, nothing more is started."""
        self.tick, self.stopped = tick, stopped
        self.failures: dict[str, BaseException] = {}
        self._queue: list[_Job] = []
        self._unfit_since: float | None = None
        self._numbers = itertools.count()

    def submit(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        needs: Needs,
        urgent: bool = False,
        retries: int = 2,
        done: Callable[[Any], None] = lambda result: None,
        failed: Callable[[Exception], None] | None = None,
        ranks: int = 0,
        first: bool = False,
    ) -> None:
        """Queue a job; `done` gets its result on the driver, and may submit more.

        Args:
            urgent: before all that are not.
            retries: how often it is started again after a crash.
            failed: gets the error of every crash and exception instead, and decides what follows.
            ranks: run it on a group of so many, each with `needs`, instead of as a task.
            first: before the others of its urgency; what was begun before goes on first.
        """
        number = next(self._numbers)
        rank = (0 if urgent else 1, -number if first else number)
        job = _Job(rank, name, function, arguments, needs, retries, done, failed, ranks)
        heapq.heappush(self._queue, job)

    @property
    def waiting(self) -> bool:
        """Whether jobs are queued."""
        return bool(self._queue)

    @property
    def busy(self) -> Needs:
        """What the running jobs take."""
        raise NotImplementedError

    @property
    def left(self) -> bool:
        """Whether anything is queued or running."""
        return self.waiting or self.busy != Needs(0, 0)

    def start(self, beside: Needs) -> None:
        """Start as many jobs as fit beside what others take."""
        raise NotImplementedError

    def references(self) -> list[Any]:
        """What is still to come."""
        raise NotImplementedError

    def collect(self) -> None:
        """Hand on the results of what is finished."""
        raise NotImplementedError

    def close(self) -> None:
        """End whatever still runs."""

    def run(self) -> None:
        """Work until nothing is queued or running; the rest still finishes when one job fails."""
        drive(self)

    def _next(self, busy: Needs) -> _Job | None:
        """The most urgent job, if it fits beside what is running."""
        if self.stopped():
            self._queue.clear()
        if not self._queue:
            return None
        one, wanted, whole = self._queue[0].needs, self._queue[0].takes, capacity()
        if wanted.fits(whole) and one.fits(largest_node()):
            self._unfit_since = None
            return heapq.heappop(self._queue) if (wanted + busy).fits(whole) else None
        self._unfit_since = self._unfit_since or time.monotonic()
        if busy == Needs(0, 0) and (len(ray.nodes()) == 1 or time.monotonic() - self._unfit_since > PATIENCE):
            check_fits(self._queue[0].name, one, max(1, self._queue[0].ranks))
        return None

    def _failed(self, job: _Job, error: Exception) -> None:
        """Queue a crashed job again while it has retries; the user's mistakes end everything at once."""
        cause = cause_of(error)
        if isinstance(cause, Stopped):
            return
        if job.failed is not None:
            job.failed(error)
        elif isinstance(error, CRASHES) and job.retries > 0:
            job.retries -= 1
            heapq.heappush(self._queue, job)
        elif isinstance(cause, UserError):
            raise cause
        else:
            self.failures[job.name] = cause

    def report(self) -> None:
        """Raise for what failed, once all the rest is done."""
        if self.stopped():
            raise Stopped
        if not self.failures:
            return
        name, cause = next(iter(self.failures.items()))
        others = f" (and {len(self.failures) - 1} more failed)" if len(self.failures) > 1 else ""
        raise RunFailure(f"{name} failed: {in_a_line(cause)}{others}") from cause


def ranks(workers: int, gpus: float | str, one: Needs) -> int:
    """How many ranks share the lanes: as many as asked for, or with gpus "auto" as there are GPUs for, so that they divide.

    Fewer ranks change nothing in the batches.
    """
    if gpus != "auto" or not one.gpus:
        return workers
    most = min(workers, int(capacity().gpus))
    return max(r for r in range(1, most + 1) if workers % r == 0)


def check_fits(name: str, one: Needs, ranks: int = 1) -> None:
    """Refuse processes that the cluster as it stands could never run together.

    Raises:
        UserError: says what is needed and what there is.
    """
    wanted, whole, node = one * ranks, capacity(), largest_node()
    advice = "lower cpus, gpus or workers in the recipe, or take a larger cluster"
    if not wanted.fits(whole):
        raise UserError(
            f"{name} needs {wanted.cpus} CPUs and {wanted.gpus:g} GPUs and the cluster has {whole.cpus} and "
            f"{whole.gpus:g}; {advice}"
        )
    if not one.fits(node):
        raise UserError(
            f"{name} needs {one.cpus} CPUs and {one.gpus:g} GPUs on one node and the largest has {node.cpus} and "
            f"{node.gpus:g}; {advice}"
        )


def drive(first: _Queue, second: _Queue | None = None, reserve: Needs | None = None) -> None:
    """Work a queue, or two side by side, until nothing is left.

    Args:
        first: has the first claim: while it waits and nothing of it runs, the second starts nothing beside what it has.
        second: where the first depends on its results: `reserve` is what the first must leave to it, and its failure
            ends the first as well.
    """
    none = Needs(0, 0)
    queues = [queue for queue in (first, second) if queue is not None]
    try:
        while any(queue.left for queue in queues):
            if second is not None and second.failures and not second.left:
                break  # what the first waits for will not come
            kept = reserve if reserve and second is not None and second.left and second.busy == none else none
            first.start((second.busy if second is not None else none) + kept)
            if second is not None and not (first.waiting and first.busy == none and second.busy != none):
                second.start(first.busy)
            _wait([reference for queue in queues for reference in queue.references()])
            for queue in queues:
                queue.tick()
                queue.collect()
    finally:
        for queue in queues:
            queue.close()
    for queue in reversed(queues):
        queue.report()


class Tasks(_Queue):
    """Independent tasks: as many at once as fit, urgent ones first. A job may take a group of ranks for itself."""

    def __init__(self, tick: Tick, stopped: Callable[[], bool], placement: Placement = "spread"):
        """`placement`: whether tasks go to all nodes evenly, or to as few as hold them."""
        super().__init__(tick, stopped)
        self.placement = placement
        self._running: dict[Any, _Job] = {}
        self._groups: dict[_Group, _Job] = {}

    @property
    def busy(self) -> Needs:
        return sum((job.takes for job in (*self._running.values(), *self._groups.values())), Needs(0, 0))

    def start(self, beside: Needs) -> None:
        while (job := self._next(self.busy + beside)) is not None:
            if job.ranks:
                group = _Group(job.ranks, job.needs, 0.0)
                group.start(job)
                self._groups[group] = job
                continue
            remote = ray.remote(job.function).options(
                num_cpus=job.needs.cpus,
                num_gpus=job.needs.gpus,
                max_retries=0,
                scheduling_strategy=self._strategy(job),
                name=job.name,
            )
            self._running[remote.remote(*job.arguments)] = job

    def _strategy(self, job: _Job) -> Any:
        """Ray's own SPREAD, or the node that is chosen here.

        Ray's default fills a node to the half and then goes on to others, so "as few nodes as possible" is decided from
        what was sent where; should others have taken the node's room meanwhile, Ray finds another.
        """
        if self.placement == "spread":
            return "SPREAD"
        sent: dict[str, Needs] = {}
        for other in self._running.values():
            if other.node is not None:
                sent[other.node] = sent.get(other.node, Needs(0, 0)) + other.needs
        job.node = fullest(nodes(), sent, job.needs)
        if job.node is None:
            return "DEFAULT"
        return NodeAffinitySchedulingStrategy(job.node, soft=True, _spill_on_unavailable=True)

    def references(self) -> list[Any]:
        return [*self._running, *(reference for group in self._groups for reference in group.waiting())]

    def close(self) -> None:
        for group in self._groups:
            group.kill()
        self._groups.clear()

    def collect(self) -> None:
        for group in [g for g in self._groups if g.settled()]:
            job = self._groups.pop(group)
            try:
                result = group.result()
            except Exception as error:
                group.kill()
                self._failed(job, error)
            else:
                group.kill()
                job.done(result)
        if not self._running:
            return
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in ready:
            job = self._running.pop(reference)
            try:
                result = ray.get(reference)
            except Exception as error:
                self._failed(job, error)
            else:
                job.done(result)


class Groups(_Queue):
    """Jobs that each take a group of ranks with a process group between them. A job's function runs on every rank; rank
    0's result counts.

    Ranks are actors in a placement group. A group does job after job; when any of its ranks fails, all are killed
    and the next job gets a new group, since a process group does not survive the loss of a member.
    """

    def __init__(self, tick: Tick, stopped: Callable[[], bool], ranks: int, needs: Needs, patience: float = 0.0):
        """`patience`: seconds that a rank may wait for data while its peers wait for it."""
        super().__init__(tick, stopped)
        self.ranks, self.needs, self.patience = ranks, needs, patience
        self._idle: list[_Group] = []
        self._running: dict[_Group, _Job] = {}

    def submit(self, *arguments: Any, **options: Any) -> None:
        super().submit(*arguments, **{**options, "ranks": self.ranks})

    @property
    def busy(self) -> Needs:
        return self.needs * (self.ranks * len(self._running))

    def start(self, beside: Needs) -> None:
        while (job := self._next(self.busy + beside)) is not None:
            group = self._idle.pop() if self._idle else _Group(self.ranks, self.needs, self.patience)
            group.start(job)
            self._running[group] = job

    def references(self) -> list[Any]:
        return [reference for group in self._running for reference in group.waiting()]

    def collect(self) -> None:
        for group in [g for g in self._running if g.settled()]:
            job = self._running.pop(group)
            try:
                result = group.result()
            except Exception as error:
                group.kill()
                self._failed(job, error)
            else:
                self._idle.append(group)
                job.done(result)
        if not self.waiting:
            self._kill(self._idle)

    def close(self) -> None:
        self._kill(self._idle)
        self._kill(list(self._running))
        self._running.clear()

    @staticmethod
    def _kill(groups: "list[_Group]") -> None:
        while groups:
            groups.pop().kill()


class _Group:
    def __init__(self, ranks: int, needs: Needs, patience: float):
        bundle = {"CPU": needs.cpus, **({"GPU": needs.gpus} if needs.gpus else {})}
        self.placement: PlacementGroup = placement_group([bundle] * ranks, strategy="PACK")
        actor = ray.remote(max_restarts=0)(_Rank)
        self.actors = [
            actor.options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self.placement, placement_group_bundle_index=rank),
            ).remote(rank, ranks, needs.gpus)
            for rank in range(ranks)
        ]
        address = self.actors[0].open.remote()
        self._joined = [actor.join.remote(address, patience) for actor in self.actors]
        self.references: list[Any] = []
        self._failed_at: float | None = None

    def start(self, job: _Job) -> None:
        self.references = [*self._joined, *(actor.run.remote(job.function, job.arguments) for actor in self.actors)]

    def waiting(self) -> list[Any]:
        """What is still to come from the ranks."""
        return self._sorted()[1]

    def settled(self) -> bool:
        """All ranks are through, or one failed and said why, or the others had time enough to say it."""
        ready, waiting = self._sorted()
        errors = [error for r in ready if (error := _error_of(r)) is not None]
        if not errors or not waiting:
            return not waiting
        self._failed_at = self._failed_at or time.monotonic()
        return min(map(_weight, errors)) < 2 or time.monotonic() - self._failed_at > PATIENCE

    def result(self) -> Any:
        """Rank 0's result, or the most telling of the errors: the user's, then a crash, then what it led to."""
        ready, waiting = self._sorted()
        errors = [error for r in ready if (error := _error_of(r)) is not None]
        if not errors:
            return ray.get(self.references[len(self._joined)])
        first = min(errors, key=_weight)
        if waiting and _weight(first) == 2:
            raise LostRank("ranks of its group gave no sign any more, and what the others say follows") from first
        raise first

    def _sorted(self) -> tuple[list[Any], list[Any]]:
        ready, waiting = ray.wait(self.references, num_returns=len(self.references), timeout=0)
        return list(ready), list(waiting)

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.placement)


class _Rank:
    """One rank: a process that joins a process group and then runs what it is given."""

    def __init__(self, rank: int, ranks: int, gpus: float):
        self.rank, self.ranks, self.gpus = rank, ranks, gpus
        self._store: Any = None

    def open(self) -> tuple[str, int]:
        """On rank 0: open the rendezvous; where the others find it."""
        from kdscale.training import ranks

        host = ray.util.get_node_ip_address()
        self._store = ranks.open_rendezvous(host, self.ranks)
        return host, self._store.port

    def join(self, address: tuple[str, int], patience: float) -> None:
        from kdscale.training import ranks

        ranks.join(self.rank, self.ranks, address, self._store, self.gpus > 0, patience)

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


def _wait(references: list[Any]) -> None:
    """Until one is ready, or for a poll."""
    if references:
        ray.wait(references, timeout=POLL)
    else:
        time.sleep(POLL)


def cause_of(error: BaseException) -> BaseException:
    """What a task itself raised."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def _error_of(reference: Any) -> Exception | None:
    try:
        ray.get(reference)
    except Exception as error:
        return error
    return None


def _weight(error: Exception) -> int:
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

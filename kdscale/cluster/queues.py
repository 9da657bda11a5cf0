"""Jobs in order of urgency, as many at once as fit: tasks, and groups of ranks."""

import heapq
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdscale import mirror
from kdscale.cluster.crashes import CRASHES, PATIENCE, cause_of
from kdscale.cluster.group import Group
from kdscale.cluster.resources import Needs, capacity, check_fits, fullest, largest_node, nodes
from kdscale.errors import RunFailure, Stopped, UserError, in_a_line

POLL = 0.25
"""Seconds between two looks at what runs."""
Tick = Callable[[], None]
Placement = Literal["spread", "pack"]


@dataclass(frozen=True)
class Owner:
    """For whom jobs run."""

    stopped: Callable[[], bool]
    """Once it says so, nothing more is started."""
    book: Callable[[Needs, float], None] = lambda needs, seconds: None
    """Told of every job, also of one that failed, what it held and for how long."""


@dataclass(order=True)
class Job:
    rank: tuple[int, int]
    name: str = field(compare=False)
    function: Callable[..., Any] = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False)
    needs: Needs = field(compare=False)
    retries: int = field(compare=False)
    done: Callable[[Any], None] = field(compare=False)
    owner: Owner = field(compare=False)
    failed: Callable[[Exception], None] | None = field(compare=False, default=None)
    ranks: int = field(compare=False, default=0)
    """Of a group that runs it; 0 for a task."""
    node: str | None = field(compare=False, default=None)
    """Where it was sent, if that was chosen here."""
    begun: float = field(compare=False, default=0.0)

    @property
    def takes(self) -> Needs:
        return self.needs * max(1, self.ranks)

    def over(self) -> None:
        """Book what it held since it was sent."""
        self.owner.book(self.takes, time.monotonic() - self.begun)


class Queue(ABC):
    """Jobs in order of urgency, their retries and failures: what tasks and groups have in common."""

    def __init__(self, tick: Tick, owner: Owner):
        """`tick` is called a few times a second."""
        self.tick, self.owner, self.stopped = tick, owner, owner.stopped
        self.failures: dict[str, BaseException] = {}
        self._queue: list[Job] = []
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
        owner: Owner | None = None,
    ) -> None:
        """Queue a job; `done` gets its result on the driver, and may submit more.

        Args:
            urgent: before all that are not.
            retries: how often it is started again after a crash.
            failed: gets the error of every crash and exception instead, and decides what follows.
            ranks: run it on a group of so many, each with `needs`, instead of as a task.
            first: before the others of its urgency; what was begun before goes on first.
            owner: another than the queue's, for what it holds.
        """
        number = next(self._numbers)
        rank = (0 if urgent else 1, -number if first else number)
        job = Job(rank, name, function, arguments, needs, retries, done, owner or self.owner, failed, ranks)
        heapq.heappush(self._queue, job)

    @property
    def waiting(self) -> bool:
        """Whether jobs are queued."""
        return bool(self._queue)

    @property
    @abstractmethod
    def busy(self) -> Needs:
        """What the running jobs take."""

    @property
    def left(self) -> bool:
        """Whether anything is queued or running."""
        return self.waiting or self.busy != Needs(0, 0)

    @abstractmethod
    def start(self, beside: Needs) -> None:
        """Start as many jobs as fit beside what others take."""

    @abstractmethod
    def references(self) -> list[Any]:
        """What is still to come."""

    @abstractmethod
    def collect(self) -> None:
        """Hand on the results of what is finished."""

    def close(self) -> None:  # noqa: B027  # tasks end with the command
        """End whatever still runs."""

    def run(self) -> None:
        """Work until nothing is queued or running; the rest still finishes when one job fails."""
        drive(self)

    def _next(self, busy: Needs) -> Job | None:
        """The most urgent job, if it fits beside what is running."""
        if self.stopped():
            self._queue.clear()
        if not self._queue:
            return None
        one, wanted, whole = self._queue[0].needs, self._queue[0].takes, capacity()
        if wanted.fits(whole) and one.fits(largest_node()):
            self._unfit_since = None
            if not (wanted + busy).fits(whole):
                return None
            mirror.flush()
            job = heapq.heappop(self._queue)
            job.begun = time.monotonic()
            return job
        self._unfit_since = self._unfit_since or time.monotonic()
        if busy == Needs(0, 0) and (len(ray.nodes()) == 1 or time.monotonic() - self._unfit_since > PATIENCE):
            check_fits(self._queue[0].name, one, max(1, self._queue[0].ranks))
        return None

    def _failed(self, job: Job, error: Exception) -> None:
        """Queue a crashed job again while it has retries; the user's mistakes end everything at once."""
        cause = cause_of(error)
        if isinstance(cause, Stopped):
            if not self.stopped():  # a node is being taken away, and its ranks were told; the run goes on
                heapq.heappush(self._queue, job)
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

    def _ended(self, job: Job, result: Callable[[], Any]) -> bool:
        """Hand on what a job gave, or see to its failure; whether it gave anything."""
        job.over()
        try:
            given = result()
        except Exception as error:
            self._failed(job, error)
            return False
        mirror.flush()
        job.done(given)
        return True


def drive(first: Queue, second: Queue | None = None, reserve: Needs | None = None) -> None:
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


class Tasks(Queue):
    """Independent tasks: as many at once as fit, urgent ones first. A job may take a group of ranks for itself."""

    def __init__(self, tick: Tick, owner: Owner, placement: Placement = "spread"):
        """`placement`: whether tasks go to all nodes evenly, or to as few as hold them."""
        super().__init__(tick, owner)
        self.placement = placement
        self._running: dict[Any, Job] = {}
        self._groups: dict[Group, Job] = {}

    @property
    def busy(self) -> Needs:
        return sum((job.takes for job in (*self._running.values(), *self._groups.values())), Needs(0, 0))

    def start(self, beside: Needs) -> None:
        while (job := self._next(self.busy + beside)) is not None:
            if job.ranks:
                group = Group(job.ranks, job.needs, 0.0)
                group.start(*mirror.carried(job.function, job.arguments))
                self._groups[group] = job
                continue
            function, arguments = mirror.carried(job.function, job.arguments)
            remote = ray.remote(function).options(
                num_cpus=job.needs.cpus,
                num_gpus=job.needs.gpus,
                max_retries=0,
                scheduling_strategy=self._strategy(job),
                name=job.name,
            )
            self._running[remote.remote(*arguments)] = job

    def _strategy(self, job: Job) -> Any:
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
        for group, job in self._groups.items():
            job.over()
            group.kill()
        self._groups.clear()

    def collect(self) -> None:
        for group in [g for g in self._groups if g.settled()]:
            job = self._groups.pop(group)
            if self._ended(job, group.result):
                group.kill()
        if not self._running:
            return
        ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in ready:
            self._ended(self._running.pop(reference), partial(ray.get, reference))


class Groups(Queue):
    """Jobs that each take a group of ranks with a process group between them. A job's function runs on every rank; rank
    0's result counts.

    Ranks are actors in a placement group. A group does job after job; when any of its ranks fails, all are killed
    and the next job gets a new group, since a process group does not survive the loss of a member.
    """

    def __init__(self, tick: Tick, owner: Owner, ranks: int, needs: Needs, patience: float = 0.0):
        """`patience`: seconds that a rank may wait for data while its peers wait for it."""
        super().__init__(tick, owner)
        self.ranks, self.needs, self.patience = ranks, needs, patience
        self._idle: list[Group] = []
        self._running: dict[Group, Job] = {}

    def submit(self, *arguments: Any, **options: Any) -> None:
        super().submit(*arguments, **{**options, "ranks": self.ranks})

    @property
    def busy(self) -> Needs:
        return self.needs * (self.ranks * len(self._running))

    def start(self, beside: Needs) -> None:
        while (job := self._next(self.busy + beside)) is not None:
            group = self._idle.pop() if self._idle else Group(self.ranks, self.needs, self.patience)
            group.start(*mirror.carried(job.function, job.arguments))
            self._running[group] = job

    def references(self) -> list[Any]:
        return [reference for group in self._running for reference in group.waiting()]

    def collect(self) -> None:
        for group in [g for g in self._running if g.settled()]:
            if self._ended(self._running.pop(group), group.result):
                self._idle.append(group)
        if not self.waiting:
            self._kill(self._idle)

    def close(self) -> None:
        self._kill(self._idle)
        for job in self._running.values():
            job.over()
        self._kill(list(self._running))
        self._running.clear()

    @staticmethod
    def _kill(groups: "list[Group]") -> None:
        while groups:
            groups.pop().kill()


def _wait(references: list[Any]) -> None:
    """Until one is ready, or for a poll."""
    if references:
        ray.wait(references, timeout=POLL)
    else:
        time.sleep(POLL)

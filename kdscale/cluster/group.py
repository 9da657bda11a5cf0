"""A group of ranks: processes with a process group between them that train one model together."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from kdscale.cluster.crashes import PATIENCE, LostRank, cause_of, error_of, weight
from kdscale.cluster.resources import Needs, nodes, room
from kdscale.errors import Stopped

CLOSING = 10.0
"""Seconds given to the other ranks once one was told to stop and has. One that waits for data ends before its peers, which
may be in a step that waits for it."""


class Group:
    def __init__(self, ranks: int, needs: Needs, patience: float):
        bundle = {"CPU": needs.cpus, **({"GPU": needs.gpus} if needs.gpus else {})}
        self._ranks, self._needs = ranks, needs
        self._asked_at, self._placed = time.monotonic(), False
        self.placement: PlacementGroup = placement_group([bundle] * ranks, strategy="PACK")
        actor = ray.remote(max_restarts=0)(Rank)
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

    def start(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.references = [*self._joined, *(actor.run.remote(function, arguments) for actor in self.actors)]

    def waiting(self) -> list[Any]:
        """What is still to come from the ranks."""
        return self._sorted()[1]

    def settled(self) -> bool:
        """All ranks are through, or one failed and said why, or the others had time enough to say it; or there is no place for it
        any more. Ranks that were told to stop end one after the other: each has time to close what it keeps."""
        if self._homeless():
            return True
        ready, waiting = self._sorted()
        errors = [error for r in ready if (error := error_of(r)) is not None]
        if not errors or not waiting:
            return not waiting
        self._failed_at = self._failed_at or time.monotonic()
        waited = time.monotonic() - self._failed_at
        if all(isinstance(cause_of(error), Stopped) for error in errors):
            return waited > CLOSING
        return min(map(weight, errors)) < 2 or waited > PATIENCE

    def result(self) -> Any:
        """Rank 0's result; or the group is killed, and the most telling of the errors raised: the user's, then a crash, then
        what it led to."""
        if self._homeless():
            self.kill()
            raise LostRank("a node left before its ranks were placed, and the others have no room for them")
        ready, waiting = self._sorted()
        errors = [error for r in ready if (error := error_of(r)) is not None]
        if not errors:
            return ray.get(self.references[len(self._joined)])
        self.kill()
        first = min(errors, key=weight)
        if waiting and weight(first) == 2:
            raise LostRank("ranks of its group gave no sign any more, and what the others say follows") from first
        raise first

    def _homeless(self) -> bool:
        """Whether the nodes that it was meant for have left before it was placed. Ray would wait for others without limit."""
        self._placed = self._placed or bool(self.placement.wait(0))
        waited = time.monotonic() - self._asked_at
        return not self._placed and waited > PATIENCE and room(nodes(), self._needs) < self._ranks

    def _sorted(self) -> tuple[list[Any], list[Any]]:
        ready, waiting = ray.wait(self.references, num_returns=len(self.references), timeout=0)
        return list(ready), list(waiting)

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.placement)


class Rank:
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

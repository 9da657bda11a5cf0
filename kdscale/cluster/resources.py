"""What processes need, what the cluster has, and where they go."""

import socket
from dataclasses import dataclass

import ray

from kdscale.errors import UserError


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
    return max(1, room(nodes(), one))


def room(whole: dict[str, Needs], one: Needs) -> int:
    """How many processes of a kind these nodes have room for, each on a single node."""
    by_cpus = {name: has.cpus // max(1, one.cpus) for name, has in whole.items()}
    if not one.gpus:
        return sum(by_cpus.values())
    return sum(min(by_cpus[name], int(has.gpus / one.gpus + 1e-9)) for name, has in whole.items())


def needs(cpus: int, gpus: float | str) -> Needs:
    """Resolve the recipe's cpus and gpus: "auto" is one GPU where the cluster has any."""
    return Needs(cpus, float(gpus) if gpus != "auto" else float(capacity().gpus > 0))


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

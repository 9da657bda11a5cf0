"""Whether all nodes of a cluster reach the run directory: found out before any work is done, by looking."""

import time
import uuid
from pathlib import Path

from kdscale.errors import UserError

PATIENCE = 5.0
"""Seconds for a shared filesystem to show a new file on another node."""


def check(folder: Path) -> None:
    """Refuse a run directory that some node does not see.

    Raises:
        UserError: says which node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".reached-{uuid.uuid4().hex}"
    mark.write_text(mark.name)
    look = ray.remote(sees)
    try:
        asked = {
            look.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(str(mark)): node
            for node in nodes
        }
        blind = [node for task, node in asked.items() if not ray.get(task)]
    finally:
        mark.unlink()
    if blind:
        here = ray.util.get_node_ip_address()
        names = ", ".join(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in blind[:3])
        raise UserError(
            f"{folder}: is local to {here}, {names} does not see it; give --out on a filesystem that all nodes share"
        )


def sees(mark: str) -> bool:
    """On a node: whether a file is there with the right content."""
    path, deadline = Path(mark), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return path.read_text() == path.name
        except OSError:
            time.sleep(0.1)
    return False

"""A Ray of several nodes, three at least: whatever dies on the way, members end in the bytes of an undisturbed run."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.place import Place, sentence, write_recipe

pytestmark = pytest.mark.slow

MEMBERS = 8
LONGER = {"count": MEMBERS, "epochs": 100, "checkpoint_epochs": 4}

ODD_NET = """
import os, signal
import torch
from torch import nn
from kdscale.seeds import derive

class Net(nn.Sequential):
    def __init__(self, fails, how):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.fails, self.how, self.steps = fails, how, 0

    def forward(self, x):
        self.steps += 1
        if self.fails and self.steps > 20 and self.how == "raise":
            raise LookupError("this network has had enough")
        if self.fails and self.steps > 20 and self.how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def net(shape, classes, how):
    return Net(torch.initial_seed() == derive(2, "weights"), how)
"""


class Nodes:
    """Simulated nodes of one CPU each; a death shows in about three seconds."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=self._one())
        self.address = self.cluster.address
        self.others = [self.add() for _ in range(2)]

    @staticmethod
    def _one() -> dict[str, object]:
        return {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}

    def add(self, cpus: int = 1):
        return self.cluster.add_node(num_cpus=cpus, object_store_memory=100 << 20)

    def kill(self, node) -> None:
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.remove(node)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        made = Nodes()
        yield made
        made.cluster.shutdown()


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(run: Path) -> dict[int, dict]:
    """The status of each member that has one, by its seed."""
    found = {}
    for path in run.glob("teachers/*/status.json"):
        state = json.loads(path.read_text())
        found[state["seed"]] = state
    return found


def under_way(run: Path) -> dict[int, dict]:
    """Of those that train and have a checkpoint behind them, with the checkpoint's step."""
    return {
        seed: {**state, "saved": saved}
        for seed, state in states(run).items()
        if state["state"] == "running" and (saved := checkpoint(run, seed)) and psutil.pid_exists(state["pid"])
    }


def checkpoint(run: Path, seed: int) -> int:
    for path in run.glob(f"teachers/seed-{seed}/checkpoints/*/latest.json"):
        return int(json.loads(path.read_text())["step"])
    return 0


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("teachers/*/weights.safetensors")}


def seen(place: Place) -> dict[str, dict]:
    shown = json.loads(place.kdscale("status", "runs/tiny", "--json")[0])
    return {job["job"]: job for job in shown["jobs"]}


def went_on(run: Path, seed: int, before: dict) -> bool:
    state = states(run)[seed]
    return state["restarts"] > before["restarts"] and "resumed" in state and state["state"] in ("running", "done")


def test_whatever_dies_members_end_in_the_same_bytes(nodes: Nodes, tmp_path: Path, record_property) -> None:
    (tmp_path / "calm").mkdir()
    calm = write_recipe(tmp_path / "calm", {"teachers": {**LONGER, "pack": 4}})
    calm.kdscale("teachers", "tiny.yaml")
    hurt = write_recipe(tmp_path, {"teachers": {**LONGER, "pack": 1}})
    command = ("teachers", "tiny.yaml", f"cluster.address={nodes.address}")
    process = hurt.start(*command)
    run = hurt.run

    wait_for(lambda: len({state["node_id"] for state in under_way(run).values()}) == 3)  # spread over all
    seed, worker = min(under_way(run).items())
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: went_on(run, seed, worker))
    assert states(run)[seed]["resumed"] >= worker["saved"]

    where = {node.node_id: node for node in nodes.others}
    wait_for(lambda: any(state["node_id"] in where for state in under_way(run).values()))
    lost_seed, lost = next((s, state) for s, state in under_way(run).items() if state["node_id"] in where)
    clock = time.monotonic()
    nodes.kill(where[lost["node_id"]])
    wait_for(lambda: went_on(run, lost_seed, lost))
    record_property("seconds from a node's death to the first step elsewhere", round(time.monotonic() - clock, 1))
    assert states(run)[lost_seed]["resumed"] >= lost["saved"]
    assert states(run)[lost_seed]["node_id"] != lost["node_id"]

    new = nodes.add()
    nodes.others.append(new)
    wait_for(lambda: new.node_id in {state["node_id"] for state in under_way(run).values()})

    finished = {path: path.stat().st_mtime_ns for path in run.glob("teachers/*/done.json")}
    left = under_way(run)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hurt.kdscale(*command)

    assert weights(run) == weights(calm.run)
    assert len(weights(run)) == MEMBERS
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    ended = seen(hurt)
    assert {job["state"] for job in ended.values()} == {"done"}
    for member, before in left.items():
        job = ended[f"seed-{member}"]
        if job["restarts"] > before["restarts"]:  # else it was finished when the driver was killed
            assert job["resumed"] >= before["saved"]
    restarts = sum(job["restarts"] for job in ended.values())
    assert 3 <= restarts <= 2 + 3  # a worker, a node, and at most three that ran when the driver was killed
    rows = [
        json.loads(line)["step"] for line in (run / "teachers" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == sorted(set(rows))
    nodes_seen = {job["node_id"] for job in ended.values()}
    assert len(nodes_seen) > 1


@pytest.mark.parametrize("how", ["raise", "crash"])
def test_a_member_that_keeps_failing_is_reported_and_the_others_finish(nodes: Nodes, place, how: str) -> None:
    model = {"name": "odd_net:net", "how": how}
    odd = place(teachers={"model": model, "count": 5, "pack": 2, "retries": 1})
    (odd.folder / "odd_net.py").write_text(ODD_NET)
    _, err = odd.kdscale("teachers", "tiny.yaml", f"cluster.address={nodes.address}", code=1)
    error = odd.run / "teachers" / "seed-2" / "error.txt"
    assert "teacher seed-2 failed" in sentence(err)
    assert str(error) in sentence(err)
    told = error.read_text()
    if how == "raise":
        assert "LookupError: this network has had enough" in sentence(err)
        assert 'odd_net.py", line' in told
    else:
        assert "The worker died" in sentence(err)
    ended = seen(odd)
    assert [job["state"] for job in ended.values()] == ["done", "done", "failed", "done", "done"]
    assert ended["seed-2"]["restarts"] >= 1
    assert "seed-2" in (shown := odd.kdscale("status", "runs/tiny")[0])
    assert "failed" in shown
    assert str(error.relative_to(odd.run)) in shown


def test_tasks_are_packed_onto_few_nodes_or_spread_over_many(nodes: Nodes) -> None:
    import sys

    import ray
    from ray import cloudpickle

    from kdscale import cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    large = nodes.add(cpus=3)
    nodes.others.append(large)
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        went: dict[str, list[str]] = {"pack": [], "spread": []}
        for placement, found in went.items():
            tasks = cluster.Tasks(lambda: None, cluster.Owner(lambda: False), placement)  # type: ignore[arg-type]
            for i in range(3):
                tasks.submit(f"{placement} {i}", linger, needs=cluster.Needs(1), done=found.append)
            tasks.run()
        assert went["pack"] == [large.node_id] * 3
        assert len(set(went["spread"])) == 3
    finally:
        ray.shutdown()


def linger() -> str:
    import time

    import ray

    time.sleep(1)
    return str(ray.get_runtime_context().get_node_id())

"""A run that others take part in: a Ray that is already there, and a W&B server."""

import json
import os

import pytest
from support.fake_wandb_server import FakeWandb
from support.place import STUDENT, same_students

pytestmark = pytest.mark.slow


def splits(place) -> dict:
    return json.loads((place.run / "results.json").read_text())["splits"]


def test_a_running_cluster_is_joined_and_outlives_the_command(finished, place, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        here = place()
        here.kdscale(*STUDENT, f"cluster.address={cluster.address}")
        assert same_students(here, finished)
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_the_numbers_reach_wandb(finished, place, monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with FakeWandb() as server:
        monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        here = place(tracking={"wandb": {"mode": "online", "base_url": server.url, "tags": ["ci"]}})
        here.kdscale("run", "tiny.yaml")
        assert splits(here) == splits(finished)
        runs = {(run["jobType"], run["displayName"]): run for run in server.runs.values()}
    kinds = sorted(kind for kind, _ in runs)
    assert kinds == ["evaluate", "student", "student", "teachers", "teachers", "teachers"]
    assert {run["group"] for run in runs.values()} == {"tiny"}
    for (kind, _), run in runs.items():
        if kind != "evaluate":
            steps = [row["train/step"] for row in run["history"]]
            assert steps == sorted(set(steps))
            assert len(steps) > 10
    (summary,) = (run["summary"] for (kind, _), run in runs.items() if kind == "evaluate")
    test = splits(here)["test"]
    assert summary["test/student/accuracy"] == pytest.approx(test["student"]["accuracy"])
    assert summary["test/ensemble/nll"] == pytest.approx(test["ensemble"]["nll"])

"""Runs on a real Slurm of four virtual nodes: through requeues, time limits, cancellations and lost nodes to the same end.

The longest job, which meets its time limit, is submitted first and looked at last.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.place import Place, sentence, write_recipe
from support.virtual_slurm import Slurm, Submitted, slurm, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

SLOW_NET = """
import time
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        if self.training:
            time.sleep({pause})
        return super().forward(x)

def net(shape, classes):
    return Net(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
SLOW = {"model": {"name": "slow_net:net"}, "count": 2, "checkpoint_epochs": 1, "pack": 1, "gpus": 0}
NO_GPUS = {"teachers": {"gpus": 0}, "student": {"gpus": 0}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is the same on all nodes."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[Slurm]:
    with slurm(4, shared) as made:
        yield made


def slow(shared: Path, name: str, pause: float = 0.13) -> Place:
    """A working directory whose members take their time, however fast the machine is."""
    (shared / name).mkdir()
    (shared / name / "slow_net.py").write_text(SLOW_NET.format(pause=pause))
    return write_recipe(shared / name, {"teachers": SLOW, "student": {"gpus": 0}})


TEACHERS = ("--stage", "teachers", "--nodes", "2", "--cpus-per-task", "2")


@pytest.fixture(scope="module")
def limited(cluster: Slurm, shared: Path) -> Submitted:
    """A job that needs more than its minute."""
    place = slow(shared, "limited")
    return Submitted(cluster, place, *TEACHERS, "--nodelist", "node[1-2]", "--time=1", "--grace=20")


def weights(job: Submitted) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in job.run.glob("teachers/*/weights.safetensors")}


def splits(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())["splits"]


def nothing_left(cluster: Slurm, *nodes: str) -> None:
    for node in nodes:
        left = partial(cluster.leftovers, node)
        wait_for(lambda left=left: not left(), 30, lambda left=left: str(left()))


def test_a_job_beside_another_is_stopped_saves_requeues_and_ends_as_if_nothing_had_been(
    cluster: Slurm, shared: Path, limited: Submitted, finished: Place, record_property
) -> None:
    (shared / "whole").mkdir()
    place = write_recipe(shared / "whole", {**NO_GPUS, "student": {"gpus": 0, "workers": 2}})
    job = Submitted(
        cluster, place, "--nodes=2", "--cpus-per-task=2", "--gpus-per-node=1", "--nodelist=node[1-2]", "--qos", "normal"
    )
    limited.requeued()
    wait_for(lambda: "step" in job.statuses().get("student-seed-0", {}), what=lambda: job.log)
    token = job.folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert limited.folder != job.folder
    shown = place.kdscale("status", "runs/tiny")[0]
    assert f"job {job.id}" in shown
    assert "running" in shown
    cluster.call("scancel", "--batch", "--signal=USR1", job.id)
    assert job.ended() == 0
    record_property(
        "seconds from USR1 to the request to requeue", round(job.marks("requeue")[0] - job.marks("driver")[0], 1)
    )
    assert place.weights("teachers/*") == finished.weights("teachers/*")
    seen, expected = (splits(run)["test"]["student"]["nll"] for run in (place.run, finished.run))
    assert seen == pytest.approx(expected, rel=1e-3)  # of two ranks and of one
    assert "USR1: everything is being saved" in job.log
    assert job.log.count("Ray: 2 nodes, 4 CPUs, 2 GPUs") == 2
    assert not token.exists()
    (state,) = json.loads(place.kdscale("status", "runs/tiny", "--json")[0])["slurm"]
    assert (state["starts"], state["exit_code"]) == (2, 0)
    assert place.kdscale("logs", "runs/tiny", "--follow")[0] == job.log


def test_a_cancelled_job_leaves_nothing_behind(cluster: Slurm, shared: Path) -> None:
    job = Submitted(cluster, slow(shared, "cancelled", pause=0.06), *TEACHERS, "--nodelist=node[3-4]")
    wait_for(lambda: any("step" in status for status in job.statuses().values()), what=lambda: job.log)
    cluster.call("scancel", job.id)
    wait_for(lambda: cluster.state(job.id) == "CANCELLED", 30)
    nothing_left(cluster, "node3", "node4")
    assert not (job.folder / "token").exists()
    again = Submitted(cluster, job.place, *TEACHERS, "--nodelist=node[3-4]")
    wait_for(lambda: any(status["state"] == "running" for status in again.statuses().values()), what=lambda: again.log)
    assert "asked" not in again.log
    assert "saves what is under way" in job.place.kdscale("cancel", "runs/tiny")[0]
    assert again.ended(60) == 143
    assert "stopped; everything is saved" in again.log
    wait_for(lambda: cluster.state(again.id) == "FAILED", 30)
    nothing_left(cluster, "node3", "node4")


APPTAINER = """#!/bin/bash
# apptainer exec [--bind PLACE]... IMAGE COMMAND...
shift
while [ "$1" = --bind ]; do shift 2; done
export INSIDE=$1; shift
exec "$@"
"""


def test_a_job_outlives_a_node_and_one_that_meets_its_time_limit_ends_alike(
    cluster: Slurm, shared: Path, limited: Submitted
) -> None:
    container = shared / "bin" / "apptainer"
    container.parent.mkdir()
    container.write_text(APPTAINER)
    container.chmod(0o755)
    path = f"export PATH={container.parent}:{Path(sys.executable).parent}:$PATH"
    job = Submitted(
        cluster,
        slow(shared, "lost", pause=0.06),
        *TEACHERS,
        "--nodelist=node[3-4]",
        "--setup",
        path,
        "--apptainer",
        "kd.sif",
    )
    wait_for(
        lambda: any(s.get("node", "").startswith("node4/") and s.get("step", 0) > 60 for s in job.statuses().values()),
        what=lambda: job.log,
    )
    cluster.kill("node4")
    assert job.ended() == 0, job.log
    assert len(job.marks("begun")) == 1
    ended = {name: status for name, status in job.statuses().items() if name.startswith("seed-")}
    assert {status["node"].partition("/")[0] for status in ended.values()} == {"node3"}
    assert sum(status["restarts"] for status in ended.values()) >= 1
    nothing_left(cluster, "node3")

    limited.requeued()
    assert limited.ended() == 0, limited.log
    assert len(limited.marks("begun")) > 1
    assert "USR1: everything is being saved" in limited.log
    assert len(weights(limited)) == 2
    assert weights(limited) == weights(job)
    nothing_left(cluster, "node1", "node2")


@pytest.mark.soak
def test_ray_that_does_not_start_on_a_node_fails_the_job_at_once_and_leaves_its_logs(
    cluster: Slurm, shared: Path
) -> None:
    broken = shared / "broken" / "ray"
    broken.parent.mkdir()
    broken.write_text(f'#!/bin/bash\n[ "$SLURM_NODEID" = 0 ] || exit 3\nexec {Path(sys.executable).parent}/ray "$@"\n')
    broken.chmod(0o755)
    first = f"export PATH={broken.parent}:$PATH"
    job = Submitted(cluster, slow(shared, "failing"), *TEACHERS, "--nodelist=node[1-2]", "--setup", first)
    assert job.ended(90) == 1
    assert "Ray on node2 ended before its time: exit code 3" in (job.folder / "ray-0.log").read_text()
    assert "see" in job.log
    assert list((job.folder / "ray-0" / "node1").glob("gcs_server*"))
    assert len(job.marks("begun")) == 1
    nothing_left(cluster, "node1", "node2")


def test_a_partition_that_is_not_there(cluster: Slurm, shared: Path) -> None:
    place = write_recipe(shared)
    _, err = place.kdscale("submit", "slurm", "tiny.yaml", "--partition", "nope", code=2)
    assert "invalid partition specified: nope" in sentence(err)
    assert "--partition takes main, scavenge" in sentence(err)

"""Longer variants of the tests on Slurm, for `make soak`: KDSCALE_SOAK says how many moments are tried."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.place import Place, write_recipe
from support.virtual_slurm import Slurm, Submitted, slurm, wait_for

MOMENTS = int(os.environ.get("KDSCALE_SOAK", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.skipif(not MOMENTS, reason="part of make soak")]
LONG = {"count": 3, "epochs": 150, "checkpoint_epochs": 5, "pack": 1, "gpus": 0}
TEACHERS = ("--stage", "teachers", "--cpus-per-task", "2")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Slurm]:
    with slurm(3, tmp_path) as made:
        yield made


def place(folder: Path) -> Place:
    folder.mkdir()
    return write_recipe(folder, {"teachers": LONG, "student": {"gpus": 0}})


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("teachers/*/weights.safetensors")}


@pytest.fixture
def calm(tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run of this machine gives."""
    made = place(tmp_path / "calm")
    made.kdscale("teachers", "tiny.yaml")
    return weights(made.run)


def test_usr1_at_any_moment_loses_nothing(cluster: Slurm, calm: dict, tmp_path: Path, record_property) -> None:
    job = Submitted(cluster, place(tmp_path / "hurt"), *TEACHERS, "--nodes=2", "--grace=30")
    dice = random.Random(time.time_ns())
    moments = []
    for start in range(1, MOMENTS + 1):
        wait_for(lambda start=start: len(job.marks("begun")) == start or job.over, what=lambda: job.log)
        moments.append(round(dice.uniform(0, 25), 1))
        time.sleep(moments[-1])  # the moment is what is being tried
        if job.over:
            break
        cluster.call("scancel", "--batch", "--signal=USR1", job.id)
        wait_for(lambda start=start: len(job.marks("requeue")) == start or job.over, what=lambda: job.log)
    record_property("moments", moments)
    assert job.ended(300) == 0, job.log
    assert weights(job.run) == calm
    for node in cluster.nodes:
        wait_for(lambda node=node: not cluster.leftovers(node), 30)


@pytest.mark.parametrize(("policy", "victim"), [("continue", 0), ("requeue", 1)])
def test_a_lost_node_requeues_the_job_by_the_stated_policy(
    cluster: Slurm, calm: dict, tmp_path: Path, policy: str, victim: int
) -> None:
    """The first node takes the script with it whatever the policy; another one only if that is asked for."""
    job = Submitted(cluster, place(tmp_path / "hurt"), *TEACHERS, "--nodes=2", "--on-lost-node", policy)
    wait_for(lambda: list(job.run.glob("teachers/*/checkpoints/*/latest.json")), what=lambda: job.log)
    cluster.kill(cluster.nodes[victim])
    assert job.ended(400) == 0, job.log
    assert len(job.marks("begun")) == 2
    assert weights(job.run) == calm

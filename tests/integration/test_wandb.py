"""A whole run that W&B watches: the real client against the backend on loopback."""

import os

import pytest
from support.fake_wandb_server import FakeWandb
from support.place import Place

from kdscale.tracking import names

pytestmark = pytest.mark.slow


def test_a_run_shows_every_job_once_with_its_lineage(copy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members were trained with W&B off, and get their runs all the same."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with FakeWandb() as server:
        for name, value in {**server.env(), "WANDB_API_KEY": "f" * 40}.items():
            monkeypatch.setenv(name, value)
        changes = ("student.epochs=1", "student.control=false", "student.workers=1", "tracking.wandb.mode=online")
        copy.kdscale("run", "tiny.yaml", *changes)
        runs = {run["displayName"]: run for run in server.runs.values()}
        members = [f"teacher-seed-{seed}" for seed in range(3)]
        assert set(runs) == {"data", "store", "student-seed-0", "evaluate", *members}
        (group,) = {run["group"] for run in runs.values()}
        assert {run["state"] for run in runs.values()} == {"finished"}

        uses = {name: {used.removeprefix(f"me/kdscale/{group}-") for used in run["used"]} for name, run in runs.items()}
        assert uses["teacher-seed-1"] == {"data:v0"}
        assert uses["store"] == {"data:v0", *(f"{name}:v0" for name in members)}
        assert uses["student-seed-0"] == {"data:v0", "store:v0"}
        assert uses["evaluate"] == {"student-seed-0:v0"}

        known = {*names.load()["metrics"], "_step", "_runtime", "_timestamp"}
        for name, run in runs.items():
            steps = [row[names.STEP] for row in run["history"]]
            assert steps == sorted(set(steps)), name
            assert set().union(*run["history"], set()) <= known, name
        assert len(runs["evaluate"]["history"]) > 3
        assert runs["teacher-seed-0"]["config"]["teachers"]["value"]["count"] == 3
        assert 0 < runs["teacher-seed-0"]["summary"]["test/accuracy"] <= 1
        assert runs["student-seed-0"]["events"], "the client's own measurements of the system"
        assert "system.proc.memory.rssMB" in runs["student-seed-0"]["events"][0]

        before = {name: len(run["history"]) for name, run in runs.items()}
        out, _ = copy.kdscale("wandb", "sync", "runs/tiny")
        assert out.startswith("sent: 0 logs, 0 rows that had not arrived, and the lineage of 0 jobs")
        assert {run["displayName"]: len(run["history"]) for run in server.runs.values()} == before
        assert server.state.unknown == []

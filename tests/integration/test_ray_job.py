"""The Ray Job API against a real Ray of two nodes: submit, follow, stop, submit again and go on."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.place import Place, sentence, write_recipe
from support.ray_cluster import RayCluster, ray_cluster, why_not
from support.s3 import s3_server

from kdscale.logits.places import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray_job")]

NEEDED = "inflection"
"""A small package that nothing here needs."""
NETS = """
from math import prod
from torch import nn
from sizes import WIDTH

def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    if reason := why_not():
        pytest.skip(reason)
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)  # the nodes inherit it
        with ray_cluster(tmp_path_factory.mktemp("ray")) as made:
            yield made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = write_recipe(
        tmp_path, {"teachers": {"count": 2, "model": "nets:small", "epochs": 500, "checkpoint_epochs": 5, "pack": 1}}
    )
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sizes.py").write_text("WIDTH = 16\n")
    (tmp_path / "unrelated.py").write_text("raise SystemExit\n")
    return made


def submit(place: Place, cluster: RayCluster, *words: str) -> dict[str, str]:
    given = ("submit", "ray", "tiny.yaml", "--address", cluster.address, "--token", str(cluster.token), "--json")
    out, _ = place.kdscale(*given, *words)
    found: dict[str, str] = json.loads(out.splitlines()[-1])
    return found


def wait(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_a_job_is_followed_stopped_and_goes_on_when_it_is_submitted_again(cluster: RayCluster, place: Place) -> None:
    run = place.run
    first = submit(place, cluster, "--stage", "teachers")
    assert first["run"] == str(run)
    wait(lambda: list(run.glob("teachers/*/checkpoints/*/latest.json")))
    seen = json.loads(place.kdscale("status", "runs/tiny", "--json")[0])
    assert [(job["job"], job["state"]) for job in seen["ray"]] == [(first["job"], "RUNNING")]
    nodes = {json.loads(path.read_text())["node"] for path in run.glob("teachers/*/status.json")}
    assert nodes, "members are at work"

    assert f"job {first['job']}: saves" in place.kdscale("cancel", "runs/tiny")[0]
    stopped = place.start("logs", "runs/tiny", "--follow")
    out, err = stopped.communicate(timeout=60)
    assert "stopping: what is under way is being saved" in out
    assert f"job {first['job']} is stopped" in err
    saved = {path.parent.name: json.loads(path.read_text()) for path in run.glob("teachers/*/status.json")}
    interrupted = {name: state for name, state in saved.items() if state["state"] == "stopped"}
    assert interrupted, "at least one was not finished by then"

    second = submit(place, cluster, "--stage", "teachers")
    out, err = place.kdscale("logs", "runs/tiny", "--follow")
    assert "teachers: done in" in out
    assert err == ""
    for name, state in interrupted.items():
        done = json.loads((run / "teachers" / name / "status.json").read_text())
        assert (done["state"], done["resumed"]) == ("done", state["step"])
    listed = place.kdscale("status", "runs/tiny")[0]
    assert f"job {first['job']}" in listed
    assert f"job {second['job']} succeeded" in listed
    kept = run / "jobs" / f"ray-{second['job']}"
    assert "teachers: done in" in (kept / "log").read_text(), "read again when the cluster is gone"


@pytest.mark.soak
@pytest.mark.parametrize("option", ["--pip", "--uv"])
def test_requirements_are_installed_for_the_job_alone(
    cluster: RayCluster, place: Place, tmp_path: Path, option: str
) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(tmp_path / "wheels"), NEEDED]
    if subprocess.run(download, capture_output=True, check=False).returncode:
        pytest.skip(f"no package index here that has {NEEDED}")
    assert importlib.util.find_spec(NEEDED) is None, "it is not here without the job"
    (place.folder / "nets.py").write_text(f"import {NEEDED}\n{NETS}")
    submit(place, cluster, "--stage", "teachers", option, NEEDED, "--", "teachers.epochs=2")
    out, err = place.kdscale("logs", "runs/tiny", "--follow")
    assert "teachers: done in" in out, out + err
    assert len(list(place.run.glob("teachers/*/weights.safetensors"))) == 2


def test_a_run_directory_of_one_node_is_refused_in_a_sentence(cluster: RayCluster, place: Place) -> None:
    out = cluster.private / "run"
    submit(place, cluster, "--out", str(out), "--stage", "teachers")
    said, err = place.kdscale("logs", str(out), "--follow")
    assert "/private/run: is local to " in said
    assert "give --out on a filesystem that all nodes share" in said
    assert "Traceback" not in said
    assert "is failed" in err
    assert not list(out.glob("teachers/*/weights.safetensors"))


def test_a_wrong_token_is_a_sentence(cluster: RayCluster, place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("f" * 64)
    wrong.chmod(0o600)
    _, err = place.kdscale("submit", "ray", "tiny.yaml", "--address", cluster.address, "--token", str(wrong), code=2)
    assert f"the Ray at {cluster.address} does not take this token" in sentence(err)
    assert not list(place.run.glob("jobs/ray-*"))


def test_a_run_in_a_bucket_needs_no_shared_filesystem(cluster: RayCluster, place: Place) -> None:
    """Each node keeps the run in a folder that no other node sees."""
    url = "s3://bucket/runs/tiny"
    words = ("--out", url, "--stage", "logits", "--env", f"TMPDIR={cluster.private}")
    changes = ("--", "teachers.epochs=20", "teachers.count=2")
    assert submit(place, cluster, *words, *changes)["run"] == url
    out, err = place.kdscale("logs", url, "--follow", code=None)
    assert err == "", out
    seen = json.loads(place.kdscale("status", url, "--json")[0])
    assert {stage: seen["stages"][stage]["done"] for stage in ("data", "teachers", "logits")} == {
        **{"data": 1, "teachers": 2},
        "logits": seen["stages"]["logits"]["total"],
    }
    assert len({job["node"] for job in seen["jobs"]}) == 2, "both nodes trained"
    submit(place, cluster, *words, "--", "teachers.epochs=20", "teachers.count=3")
    out, err = place.kdscale("logs", url, "--follow", code=None)
    assert err == "", out
    assert "data: done before" in out
    assert "teachers: 3/3" in out
    kept = Bucket(url).versions()
    assert sum(path.endswith("weights.safetensors") for path in kept) == 3
    assert not [path for path in kept if path.endswith((".lock", ".stop")) or "/checkpoints/" in path]

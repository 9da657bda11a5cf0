"""What could not be sent is sent later, once; and the lineage with it. The real client against the backend on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_wandb_server import FakeWandb
from support.place import KDSCALE
from support.wandb_rows import NOWHERE

from kdscale import files
from kdscale.errors import RunFailure
from kdscale.recipe import Recipe
from kdscale.tracking import dashboard, names, publishing, syncing
from kdscale.tracking.identity import FOLDER, identity, run_id
from kdscale.tracking.job import JobTracker, tracker
from kdscale.tracking.publishing import Artefact, Node

pytestmark = pytest.mark.slow


def recipe(mode: str) -> Recipe:
    tree = {"model": "mlp", "epochs": 1}
    return Recipe.model_validate(
        {"name": "r", "teachers": tree, "student": tree, "tracking": {"wandb": {"mode": mode, "tags": ["mine"]}}}
    )


def job(run: Path, mode: str, seed: int = 0, resume: int = 0) -> JobTracker:
    folder = run / "teachers" / f"seed-{seed}"
    return tracker(run, recipe(mode), folder, "teachers", folder.name, "f1", {"seed": seed})(resume)


def log(run: Path, mode: str, first: int, last: int, seed: int = 0) -> None:
    with job(run, mode, seed, first - 1) as opened:
        for step in range(first, last + 1):
            opened.log(step, loss=1 / step)


def steps(server: FakeWandb) -> dict[str, list[int]]:
    return {run["displayName"]: [row[names.STEP] for row in run["history"]] for run in server.runs.values()}


def driver(run: Path) -> Path:
    return run / ".driver.lock"


def sync(run: Path) -> tuple[int, int]:
    return syncing.sync(run, recipe("offline").tracking.wandb, driver(run))


def member(run: Path, seed: int) -> Node:
    weights = run / "teachers" / f"seed-{seed}" / "weights.safetensors"
    weights.write_bytes(bytes([seed]))
    made = Artefact("member", files.sha256(weights), weights.as_uri(), {"seed": seed})
    return Node(
        "teachers", f"seed-{seed}", f"teachers/seed-{seed}", "f1", {"seed": seed}, ["data"], made, {"test/nll": 0.5}
    )


def data(run: Path) -> Node:
    manifest = run / "data" / "manifest.json"
    files.write_json(manifest, {})
    return Node("data", "data", f"{FOLDER}/data", "d1", made=Artefact("shards", "5eed" * 16, manifest.as_uri()))


def test_all_starts_of_a_job_arrive_in_order_and_once(server: FakeWandb, tmp_path: Path) -> None:
    log(tmp_path, "offline", 1, 4)
    killed = f"""
import os, sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tracking.test_sync import job
opened = job(Path({str(tmp_path)!r}), "offline", 0, 4)
for step in range(5, 8):
    opened.log(step, loss=1 / step)
time.sleep(2.5)
os.kill(os.getpid(), 9)
"""
    own_core = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run([sys.executable, "-c", killed], env=own_core, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    log(tmp_path, "offline", 6, 9)  # its checkpoint was of step 5
    log(tmp_path, "offline", 1, 3, seed=1)
    assert server.runs == {}
    assert sync(tmp_path) == (4, 0)
    assert steps(server) == {"teacher-seed-0": list(range(1, 10)), "teacher-seed-1": [1, 2, 3]}
    assert {run["group"] for run in server.runs.values()} == {f"r-{run_id(tmp_path)}"}
    assert sync(tmp_path) == (0, 0)
    assert steps(server)["teacher-seed-0"] == list(range(1, 10))


def test_a_job_at_work_is_left_alone(server: FakeWandb, tmp_path: Path) -> None:
    log(tmp_path, "offline", 1, 2)
    log(tmp_path, "offline", 1, 2, seed=1)
    with files.locked(tmp_path / "teachers" / "seed-1" / ".lock"):
        assert sync(tmp_path) == (1, 1)
        assert list(steps(server)) == ["teacher-seed-0"]
    assert sync(tmp_path) == (1, 0)
    assert steps(server)["teacher-seed-1"] == [1, 2]


def test_without_a_server_nothing_is_marked_as_sent(
    clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path, "offline", 1, 2)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")
    with FakeWandb() as fake:
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        fake.fault("graphql:UpsertBucket", status=403, times=1000)
        with pytest.raises(RunFailure, match="does not take 1 of 1 logs"):
            sync(tmp_path)
        fake.state.faults.clear()
        assert sync(tmp_path) == (1, 0)
        assert steps(fake) == {"teacher-seed-0": [1, 2]}


def test_rows_of_an_outage_and_the_lineage_come_later(server: FakeWandb, tmp_path: Path) -> None:
    log(tmp_path, "online", 1, 3)
    server.fault("file_stream", status=503, times=10_000)
    log(tmp_path, "online", 4, 6)
    assert steps(server)["teacher-seed-0"] == [1, 2, 3]
    server.state.faults.clear()
    settings = recipe("online").tracking.wandb
    nodes = [data(tmp_path), member(tmp_path, 0)]
    assert publishing.publish(tmp_path, recipe("online"), settings, nodes) == (2, 3)
    assert steps(server)["teacher-seed-0"] == [1, 2, 3, 4, 5, 6]
    of_member = next(run for run in server.runs.values() if run["displayName"] == "teacher-seed-0")
    group = f"r-{run_id(tmp_path)}"
    assert of_member["used"] == [f"me/kdscale/{group}-data:v0"]
    assert of_member["logged"] == [f"me/kdscale/{group}-teacher-seed-0:v0"]
    assert of_member["summary"]["test/nll"] == 0.5
    assert of_member["tags"] == ["mine", "teacher", "digits", "dense"]
    assert of_member["config"]["job"]["value"] == {"seed": 0, "kind": "teacher", "name": "seed-0"}
    assert of_member["config"]["teachers"]["value"]["model"]["name"] == "mlp"
    made = next(artefact for artefact in server.state.artifacts.values() if artefact["type"] == "member")
    assert made["metadata"]["sha256"] == nodes[1].made.content
    assert made["manifest"]["contents"]["content"]["ref"] == nodes[1].made.reference
    assert server.state.unknown == []
    ops = dict(server.state.ops)
    assert publishing.publish(tmp_path, recipe("online"), settings, nodes) == (0, 0)
    assert server.state.ops == ops  # not even asked


@pytest.mark.soak
def test_another_content_is_another_version(server: FakeWandb, tmp_path: Path) -> None:
    settings = recipe("online").tracking.wandb
    for content in ("a" * 64, "b" * 64):
        node = Node("data", "data", f"{FOLDER}/data", "d1", made=Artefact("shards", content, (tmp_path / "x").as_uri()))
        (tmp_path / "x").touch()
        publishing.publish(tmp_path, recipe("online"), settings, [node])
    assert [artefact["version"] for artefact in server.state.artifacts.values()] == ["v0", "v1"]


def test_a_server_that_hangs_slows_no_step(server: FakeWandb, tmp_path: Path) -> None:
    with job(tmp_path, "online") as opened:
        server.fault("", status=200, times=10_000, delay=30)
        times = []
        for step in range(1, 301):
            start = time.perf_counter()
            opened.log(step, loss=0.5)
            times.append(time.perf_counter() - start)
        start = time.monotonic()
    assert sorted(times)[150] < 1e-3
    assert time.monotonic() - start < 15
    assert len((tmp_path / "teachers" / "seed-0" / "metrics.jsonl").read_text().splitlines()) == 300


def test_a_server_that_hangs_at_the_start_is_asked_once_a_process(
    server: FakeWandb, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.fault("", status=200, times=10_000, delay=60)
    start = time.monotonic()
    log(tmp_path, "online", 1, 2)
    first = time.monotonic() - start
    for seed in (1, 2, 3):
        log(tmp_path, "online", 1, 2, seed=seed)
    assert time.monotonic() - start < first + 10
    assert first < 45
    assert capfd.readouterr().err.count("is logged offline") == 4
    server.state.faults.clear()
    assert sync(tmp_path) == (4, 0)
    assert steps(server)["teacher-seed-3"] == [1, 2]


def test_lineage_is_given_up_when_the_server_hangs(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files.write_text(tmp_path / "recipe.yaml", recipe("online").dump())
    publishing.write(tmp_path, [data(tmp_path)])
    server.fault("", status=200, times=10_000, delay=60)
    monkeypatch.setattr(publishing, "PATIENCE", (3.0, 0.0))
    start = time.monotonic()
    publishing.publish_aside(tmp_path, 1)
    assert time.monotonic() - start < 8
    assert "kdscale wandb sync RUN" in capfd.readouterr().err
    server.state.faults.clear()
    monkeypatch.setattr(publishing, "PATIENCE", (60.0, 0.0))
    publishing.publish_aside(tmp_path, 1)
    assert [artefact["type"] for artefact in server.state.artifacts.values()] == ["shards"]


def test_ids_stay_with_the_run_directory(tmp_path: Path) -> None:
    def ids(run: Path, mark: str) -> Any:
        return identity(run, recipe("online"), "teacher", "seed-0", mark, {}).id

    first, other = tmp_path / "a", tmp_path / "b"
    assert ids(first, "f1") == ids(first, "f1")
    assert len({ids(first, "f1"), ids(first, "f2"), ids(other, "f1")}) == 3


def test_the_dashboard_is_created_and_then_replaced(server: FakeWandb, tmp_path: Path) -> None:
    def verb(*words: str) -> str:
        done = subprocess.run(
            [*KDSCALE, "wandb", "dashboard", *words], env=os.environ, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    assert json.loads(verb("--dry-run"))["displayName"] == "kdscale"
    assert server.state.views == {}
    assert verb("--project", "p").startswith("created: dashboard kdscale of me/p")
    tree = yaml.safe_load(names.FILE.read_text())
    tree["dashboard"]["sections"] = tree["dashboard"]["sections"][:2]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    assert verb("--project", "p", "--metrics", str(tmp_path / "mine.yaml")).startswith("updated: ")
    (view,) = server.state.views.values()
    assert len(view["spec"]["section"]["panelBankConfig"]["sections"]) == 2
    assert view["projectName"] == "p"
    assert server.state.unknown == []


def test_a_server_that_is_not_there_is_found_out_at_once(clean: None, tmp_path: Path) -> None:
    tree = {"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**tree, "tracking": {"wandb": {"mode": "offline"}}}))
    done = subprocess.run(
        [*KDSCALE, "wandb", "sync", str(tmp_path), "--base-url", NOWHERE],
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"kdscale: no W&B answers at {NOWHERE} (Connection refused); what was logged is kept")


@pytest.mark.soak
def test_a_dashboard_without_a_server_is_a_sentence(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "3")
    done = subprocess.run(
        [*KDSCALE, "wandb", "dashboard", "--entity", "me"], text=True, capture_output=True, check=False, timeout=90
    )
    assert done.returncode == 1
    assert "W&B does not take the dashboard of me/kdscale" in done.stderr.splitlines()[-1]


def test_a_dashboard_without_a_key_is_the_users_to_mend(
    clean: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in ((), ("--entity", "me")):
        done = subprocess.run([*KDSCALE, "wandb", "dashboard", *words], text=True, capture_output=True, check=False)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("kdscale: there is no key for W&B; set WANDB_API_KEY")


def test_dashboards_need_no_server_to_be_checked() -> None:
    assert dashboard.read(None)["dashboard"]["name"] == "kdscale"

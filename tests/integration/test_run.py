"""The main job from data to report, on real data, and what happens when it is asked for again."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from support.place import differences

pytestmark = pytest.mark.slow


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def times(run: Path, pattern: str) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in run.glob(pattern)}


def test_results_have_what_others_rely_on(finished) -> None:
    seen = results(finished.run)
    assert {"recipe", "fingerprint", "splits", "seconds"} <= seen.keys()
    test = seen["splits"]["test"]
    assert [t["seed"] for t in test["teachers"]] == [0, 1, 2]
    names = {"accuracy", "nll", "brier", "ece", "errors", "n", "agreement"}
    for model in (*test["teachers"], test["ensemble"], test["student"], test["control"]):
        assert names <= model.keys()
        assert model["accuracy"] == pytest.approx(1 - model["errors"] / model["n"])
    assert test["ensemble"]["agreement"] == 1
    assert test["student"]["runs"][0]["seed"] == 0
    assert set(seen["seconds"]) >= {"data", "teachers", "student", "evaluate"}
    held = seen["cpu_seconds"]
    assert min(held[stage] for stage in ("teachers", "logits", "student", "evaluate")) > 0
    assert held["data"] == 0  # done by the driver
    assert set(seen["speed"]["models"]) == {"teacher", "ensemble", "student"}
    assert test["ensemble"]["accuracy"] > 0.9
    assert min(test["student"]["accuracy"], test["control"]["accuracy"]) > 0.8
    assert len({t["nll"] for t in test["teachers"]}) == 3  # seeds differ


def test_the_run_directory_has_what_others_rely_on(finished) -> None:
    run = finished.run
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["teachers"]["schedule"] == "one_cycle"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {(row["stage"], row["job"]) for row in rows} == {
        *(("teachers", f"seed-{seed}") for seed in range(3)),
        ("student", "student-seed-0"),
        ("student", "control-seed-0"),
    }
    student = [row for row in rows if row["job"] == "student-seed-0"]
    assert {"soft", "hard", "loss", "lr", "epoch"} <= student[0].keys()
    page = (run / "report" / "index.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert not list(run.rglob(".tmp-*"))
    assert not list(run.rglob("checkpoints"))


def test_the_store_holds_every_member_and_shard(finished) -> None:
    manifest = json.loads((finished.run / "data" / "manifest.json").read_text())
    keys = []
    for shard in manifest["splits"]["train"]:
        for seed in range(3):
            record = json.loads(
                (finished.run / f"logits/commits/seed-{seed}/view-000/{Path(shard['name']).stem}.json").read_text()
            )
            table = pa.ipc.open_file(pa.memory_map(str(finished.run / "logits" / record["file"]))).read_all()
            assert table.num_rows == record["rows"] == shard["samples"]
            keys.append(table.column("key").to_pylist())
            assert np.isfinite(table.column("logits").combine_chunks().flatten().to_numpy()).all()
    assert len({key for block in keys for key in block}) == sum(s["samples"] for s in manifest["splits"]["train"])


def test_calibration_diversity_and_sizes_are_measured(finished) -> None:
    test = results(finished.run)["splits"]["test"]
    assert [row["members"] for row in test["by_size"]] == [1, 2, 3]
    assert {"mean", "min", "max", "std"} <= test["by_size"][0]["ece"].keys()
    assert 0 <= test["diversity"]["mutual_information"] <= test["diversity"]["entropy"]
    assert len(test["diversity"]["pairs"]) == 3
    assert test["ensemble"]["divergence"] == 0
    assert (finished.run / "evaluate-validation" / "store.json").exists()


def test_all_fusion_rules_are_compared_without_training(copy) -> None:
    before = times(copy.run, "**/*")
    out, err = copy.kdscale("evaluate", "tiny.yaml", "--fusion", "all", "--json")
    assert "evaluate: done before" in err
    seen = json.loads(out.splitlines()[-1])
    rows = {row["rule"]: row for row in seen["rules"]}
    assert {"mean_logit", "stacked_probability", "stacked_features", "plurality", "schulze", "kemeny"} <= rows.keys()
    ensemble = results(copy.run)["splits"]["test"]["ensemble"]
    assert rows["mean_probability"]["nll"] == pytest.approx(ensemble["nll"])
    assert rows["mean_probability"]["errors"] == ensemble["errors"]
    out, _ = copy.kdscale("evaluate", "tiny.yaml", "--fusion", "borda,stv")
    assert [word for word in ("borda", "stv", "copeland", "mean_logit") if f"\n{word} " in out] == ["borda", "stv"]
    features = tuple(str(copy.run / name) for name in ("features/", "features-validation/"))
    now = {path: when for path, when in times(copy.run, "**/*").items() if not path.startswith(features)}
    changed = {path for path, when in now.items() if before.get(path) != when}
    assert not [path for path in changed if path.endswith((".safetensors", ".arrow", "results.json"))]


def test_running_again_trains_nothing(finished) -> None:
    before = times(finished.run, "**/*.safetensors") | times(finished.run, "results.json")
    out, err = finished.kdscale("run", "tiny.yaml")
    assert [line for line in err.splitlines() if "done before" in line] == [
        f"{stage}: done before" for stage in ("data", "teachers", "logits", "student", "evaluate", "report")
    ]
    assert "ensemble" in out
    assert times(finished.run, "**/*.safetensors") | times(finished.run, "results.json") == before


def test_another_temperature_retrains_the_student_alone_and_can_be_taken_back(finished) -> None:
    before = results(finished.run)
    kept = (
        times(finished.run, "teachers/**/*")
        | times(finished.run, "logits/**/*")
        | times(finished.run, "students/control*/*")
    )
    _, err = finished.kdscale("run", "tiny.yaml", "student.temperature=2", "student.hard_weight=0")
    assert "student.temperature: 4.0 -> 2.0" in err
    after = results(finished.run)
    assert after["splits"]["test"]["student"] != before["splits"]["test"]["student"]
    assert not differences(after["splits"]["test"]["control"], before["splits"]["test"]["control"])
    now = (
        times(finished.run, "teachers/**/*")
        | times(finished.run, "logits/**/*")
        | times(finished.run, "students/control*/*")
    )
    assert not differences(now, kept)
    assert list(finished.run.glob("previous/results-*/results.json"))
    _, err = finished.kdscale("run", "tiny.yaml")
    assert "student: done before" in err
    assert not differences(results(finished.run)["splits"], before["splits"])


def test_the_plan_says_what_runs_and_writes_nothing(finished, place) -> None:
    out, _ = finished.kdscale("run", "tiny.yaml", "--dry-run", "--json", "student.temperature=3", "teachers.count=5")
    plan = json.loads(out.splitlines()[-1])
    steps = {step["stage"]: step for step in plan["steps"]}
    assert (steps["teachers"]["run"], steps["teachers"]["reuse"]) == (2, 3)
    assert (steps["logits"]["run"], steps["logits"]["reuse"]) == (12, 18)
    assert (steps["student"]["run"], steps["student"]["reuse"]) == (1, 1)
    assert plan["store_bytes"] > 0
    fresh = place()
    out, _ = fresh.kdscale("run", "tiny.yaml", "--dry-run")
    assert "teachers run 3 reuse 0" in " ".join(out.split())
    assert [p.name for p in fresh.folder.iterdir()] == ["tiny.yaml"]


def test_status_reads_a_finished_run(finished) -> None:
    out, _ = finished.kdscale("status", "runs/tiny", "--json")
    seen = json.loads(out)
    assert all(stage["done"] == stage["total"] for stage in seen["stages"].values())
    assert {job["state"] for job in seen["jobs"]} == {"done"}
    out, _ = finished.kdscale("status", "tiny.yaml")
    assert "logits       18 of 18" in out


def test_stage_by_stage_gives_the_same_numbers(finished, place) -> None:
    steps = place(student={"control": False})
    for stage in ("data", "teachers", "logits", "student", "evaluate", "report"):
        steps.kdscale(stage, "tiny.yaml")
    test, expected = (results(run)["splits"]["test"] for run in (steps.run, finished.run))
    for name in ("teachers", "ensemble", "student"):
        assert not differences(test[name], expected[name])

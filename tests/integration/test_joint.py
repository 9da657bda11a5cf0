"""The joint control and the stacked features in a whole run."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_networks_are_trained_jointly_beside_the_ensemble_and_features_are_stacked(place) -> None:
    made = place(joint={"networks": 2}, student={"control": False}, evaluate={"bins": 10})
    out, _ = made.kdscale("evaluate", "tiny.yaml", "--fusion", "all", "--json")
    rows = {row["rule"]: row for row in json.loads(out.splitlines()[-1])["rules"]}
    assert rows["stacked_features"]["features"] == 32
    assert rows["stacked_features"]["accuracy"] > 0.8
    seen = json.loads((made.run / "results.json").read_text())
    joint = seen["splits"]["test"]["joint"]
    assert joint["networks"] == 2
    assert joint["accuracy"] > 0.85
    assert seen["models"]["joint"]["parameters"] == 2 * seen["models"]["teacher"]["parameters"]
    logged = [json.loads(line) for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in logged if row["job"] == "joint-seed-0"} == {"student"}
    _, err = made.kdscale("report", "tiny.yaml")
    assert "student: done before" in err
    page = (made.run / "report" / "index.html").read_text()
    assert "2 jointly" in page
    assert "Fusion rules" in page
    weights = (made.run / "students/joint-seed-0/weights.safetensors").stat().st_mtime_ns
    _, err = made.kdscale("evaluate", "tiny.yaml", "--fusion", "stacked_features,borda")
    assert "features: members" not in err
    assert (made.run / "students/joint-seed-0/weights.safetensors").stat().st_mtime_ns == weights

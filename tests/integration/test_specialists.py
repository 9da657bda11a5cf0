"""Specialists in a whole run: found, killed, trained to the same bytes, measured, made one net again, compared."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.slow

RECIPE = {
    "data": {
        "source": "digit_strings",
        "options": {"length": 2, "train": 3000, "validation": 200, "test": 500},
        "shard_size": 500,
    },
    "teachers": {"count": 1, "epochs": 2, "batch_size": 64},
    "student": {"epochs": 4, "batch_size": 64, "workers": 1},
    "specialists": {
        "count": 3,
        "classes": 20,
        "epochs": 4,
        "batch_size": 64,
        "checkpoint_epochs": 0.3,
        "generalist": "control",
        "distil": True,
        "mixture": True,
    },
}


def weights(run) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("specialists/seed-0/*/weights.safetensors")}


def test_specialists_from_the_class_sets_to_the_report(place) -> None:
    made = place(**RECIPE)
    process = made.start("specialists", "tiny.yaml", "specialists.distil=false", "specialists.mixture=false")
    hurt = made.run / "specialists/seed-0/specialist-001"
    deadline = time.monotonic() + 200
    while not list(hurt.glob("checkpoints/*/latest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(json.loads((hurt / "status.json").read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    trained = weights(made.run)
    assert len(trained) == 3
    assert json.loads((hurt / "status.json").read_text())["restarts"] == 1

    (made.run / "specialists/seed-0").rename(made.folder / "first")  # once more, undisturbed and in another order
    made.kdscale("specialists", "tiny.yaml", "specialists.distil=false", "specialists.mixture=false", "cluster.cpus=1")
    assert weights(made.run) == trained
    sets = "specialists/seed-0/sets.json"
    assert (made.run / sets).read_text() == (made.folder / "first/sets.json").read_text()

    out, err = made.kdscale("run", "tiny.yaml", "--json")
    assert weights(made.run) == trained
    test = json.loads(out.splitlines()[-1])["splits"]["test"]
    rows = test["gains"]["coverage"]
    assert sum(row["examples"] for row in rows) == 500
    gained = sum(row["change"] for row in rows)
    assert round(500 * (test["specialists"]["accuracy"] - test["control"]["accuracy"])) == gained
    assert test["gains"]["test"]["before"] == pytest.approx(test["control"]["accuracy"])
    assert test["distilled"]["accuracy"] > 0.2
    assert test["mixture"]["accuracy"] > 0.2
    page = (made.run / "report/index.html").read_text()
    for words in ("with specialists", "Gain by coverage", "The classes of 3 specialists"):
        assert words in page
    seen = json.loads(made.kdscale("status", "runs/tiny", "--json")[0])
    assert seen["stages"]["specialists"] == {"done": 5, "total": 5}
    names = {job["job"]: job["state"] for job in seen["jobs"] if job["stage"] == "specialists"}
    assert names == {f"seed-0/specialist-{number:03d}": "done" for number in range(3)}

    _, err = made.kdscale("evaluate", "tiny.yaml", "specialists.active=2")
    assert "specialists/" not in err.replace("specialists: ", "")
    assert weights(made.run) == trained, "how many take part in an answer changes no specialist"

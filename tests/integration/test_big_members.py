"""Members too big for one device: a group of DeepSpeed ranks trains each."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from support.place import sentence, write_recipe

pytestmark = pytest.mark.slow

BIG = {"count": 2, "workers": 2, "deepspeed": {"zero_optimization": {"stage": 1}}, "epochs": 6}


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run.glob("teachers/*/weights.safetensors")}


def test_a_group_that_lost_a_rank_goes_on_and_ends_in_the_same_bytes(place, tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    calm, hurt = write_recipe(tmp_path / "calm", {"teachers": BIG}), place(teachers=BIG)
    calm.kdscale("teachers", "tiny.yaml", "cluster.cpus=2")
    process = hurt.start("teachers", "tiny.yaml", "cluster.cpus=2")
    deadline = time.monotonic() + 90
    while not list(hurt.run.glob("teachers/seed-0/checkpoints/*-ranks/latest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status = json.loads((hurt.run / "teachers" / "seed-0" / "status.json").read_text())
    os.kill(status["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert len(weights(hurt.run)) == 2
    assert weights(hurt.run) == weights(calm.run)
    shown = json.loads(hurt.kdscale("status", "runs/tiny", "--json")[0])
    first, second = shown["jobs"]
    assert (first["state"], first["ranks"], first["restarts"]) == ("done", 2, 1)
    assert first["resumed"] > 0
    assert (second["state"], second["ranks"], second["restarts"]) == ("done", 2, 0)
    assert "done before" in hurt.kdscale("teachers", "tiny.yaml", "teachers.workers=4")[1]


def test_what_contradicts_is_refused(place) -> None:
    here = place()
    for override, said in {
        "teachers.workers=3": "teachers.workers is 3, which does not divide data.lanes = 8",
        "teachers.pack=2": "teachers.pack: is 2, and members that DeepSpeed trains are not packed",
        "teachers.max_norm=3": "teachers.max_norm: DeepSpeed has no such bound",
        "teachers.precision=bfloat16": "ask for bf16 or torch_autocast in teachers.deepspeed",
        "teachers.deepspeed.train_batch_size=64": "train_batch_size is 64 but the recipe's teachers.batch_size is 32",
    }.items():
        overrides = ["teachers.workers=2", override]
        assert said in sentence(here.kdscale("teachers", "tiny.yaml", *overrides, "--dry-run", code=2)[1])

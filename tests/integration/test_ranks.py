"""Students on ranks that torchrun starts: killed at two, they go on at one and at four."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from support.place import Place

from kdscale.models import zoo
from kdscale.recipe import ModelSpec

pytestmark = pytest.mark.slow
STUDENT = ("tiny.yaml", "student.control=false", "student.checkpoint_epochs=0.25")
TOLERANCE = 1e-3
"""Of logits of inputs of unit variance: 288 steps of AdamW whose sums were rounded in another order."""


def torchrun(place: Place, ranks: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, "-m", "launcher.ranks", *arguments],
        cwd=place.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def student(place: Place) -> Path:
    return place.run / "students" / "student-seed-0"


def latest(place: Place) -> int:
    """Steps behind the student's last checkpoint."""
    found = list((student(place) / "checkpoints").rglob("latest.json"))
    return json.loads(found[0].read_text())["step"] if found else 0


def predicted(place: Place) -> torch.Tensor:
    net = zoo.build(ModelSpec(name="mlp", hidden=[16]), (1, 8, 8), 10, 0).eval()
    net.load_state_dict(load_file(student(place) / "weights.safetensors"))
    with torch.no_grad():
        return net(torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_a_student_killed_at_two_ranks_goes_on_at_one_and_at_four(copy: Place, finished: Place, tmp_path: Path) -> None:
    shutil.rmtree(copy.run / "students")
    killed = torchrun(copy, 2, *STUDENT)
    deadline = time.monotonic() + 90
    while not latest(copy):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in [(agent := psutil.Process(killed.pid)), *agent.children(recursive=True)]:
        process.kill()
    killed.communicate()
    assert not (student(copy) / "done.json").exists()
    begun = latest(copy)
    expected = predicted(finished)
    for ranks in (1, 4):
        there = Place(tmp_path / str(ranks))
        shutil.copytree(copy.folder, there.folder)
        resumed = torchrun(there, ranks, *STUDENT)
        _, err = resumed.communicate(timeout=200)
        assert resumed.returncode == 0, err
        status = json.loads((student(there) / "status.json").read_text())
        assert (status["ranks"], status["resumed"]) == (ranks, begun)
        assert (predicted(there) - expected).abs().max() < TOLERANCE

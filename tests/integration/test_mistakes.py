"""Bad input on the way through the stages: what is wrong, where, and what to do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.place import sentence

pytestmark = pytest.mark.slow

BROKEN_NET = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.layer = nn.Linear(inputs, classes)

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return z if self.training else z * float("nan")

def net(shape, classes):
    return Broken(shape[0] * shape[1] * shape[2], classes)
"""


def test_a_truncated_tar_is_named_and_mended_by_importing_again(place) -> None:
    cut = place()
    cut.kdscale("data", "tiny.yaml")
    tar = cut.run / "data" / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:70000])
    _, err = cut.kdscale("teachers", "tiny.yaml", code=2)
    assert "train-000001.tar: the tar has 70000 bytes where the manifest says" in sentence(err)
    tar.write_bytes(whole)
    cut.kdscale("teachers", "tiny.yaml")


def test_nan_logits_name_the_member_and_the_sample(place) -> None:
    broken = place(teachers={"model": "broken_net:net", "count": 1})
    (broken.folder / "broken_net.py").write_text(BROKEN_NET)
    _, err = broken.kdscale("run", "tiny.yaml", code=1)
    assert "member seed-0: its logits of sample" in sentence(err)
    assert "not finite" in sentence(err)


def test_a_store_of_another_dataset_is_refused(finished, place) -> None:
    other = place(data={"test": 0.3})
    other.kdscale("data", "tiny.yaml")
    subprocess.run(
        ["cp", "-r", str(finished.run / "teachers"), str(finished.run / "logits"), str(other.run)], check=True
    )
    _, err = other.kdscale("run", "tiny.yaml", code=2)
    assert "the logit store was made from another dataset" in sentence(err)


CONTRADICTIONS = {
    "student.deepspeed={train_batch_size: 64}": "train_batch_size is 64 but the recipe's student.batch_size is 32",
    "student.deepspeed={fp16: {enabled: true}}": "fp16 does not work on this CPU",
    "student.model={name: mlp, widths: [3]}": "its options are hidden",
    "teachers.cpus=64": "needs 64 CPUs",
    "student.classes=[0, 99]": "student.classes: there is no class 99; there are 0, 1, 2",
}
if torch.ops.mkldnn._is_mkldnn_fp16_supported():  # on such a CPU it is no contradiction
    del CONTRADICTIONS["student.deepspeed={fp16: {enabled: true}}"]


def test_contradictions_are_found_before_anything_is_trained(copy) -> None:
    before = (copy.run / "recipe.yaml").read_text()
    for override, message in CONTRADICTIONS.items():
        more = ["teachers.count=4"] if "cpus" in override else []
        _, err = copy.kdscale("run", "tiny.yaml", override, *more, code=2)
        assert message in sentence(err)
    assert (copy.run / "recipe.yaml").read_text() == before
    _, err = copy.kdscale("run", "tiny.yaml")
    assert "student: done before" in err


def test_wrong_data_of_each_kind(place, tmp_path: Path) -> None:
    one = tmp_path / "one.npz"
    np.savez(one, x=np.zeros((20, 4, 4), np.uint8), y=np.zeros(20, np.int64))
    here = place()
    _, err = here.kdscale("run", "tiny.yaml", "data.source=npz", f"data.path={one}", code=2)
    assert "class" in sentence(err)
    _, err = here.kdscale("run", "tiny.yaml", "data.source=npz", "data.path=nowhere.npz", "--fresh", code=2)
    assert "nowhere.npz" in sentence(err)
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, x=np.random.default_rng(0).normal(size=(90, 5)), y=np.arange(90) % 3)
    _, err = here.kdscale(
        "run", "tiny.yaml", "data.source=npz", f"data.path={arrays}", "teachers.views.jitter=1", "--fresh", code=2
    )
    assert "the samples of npz are arrays, not images" in sentence(err)
    here.kdscale("student", "tiny.yaml", "data.source=npz", f"data.path={arrays}", "--fresh", "student.control=false")


def test_no_ray_at_the_address(place) -> None:
    _, err = place().kdscale("run", "tiny.yaml", "cluster.address=127.0.0.1:1", code=2)
    assert "no Ray answers at 127.0.0.1:1" in sentence(err)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.soak
def test_a_full_disk_is_a_failure_and_the_run_goes_on_when_there_is_room(place, finished, small_disk: Path) -> None:
    here = place()
    filler = small_disk / "filler"
    out = small_disk / "run"
    _, err = here.kdscale("run", "tiny.yaml", "--out", str(out), code=1)  # shards alone take more
    assert "No space left" in sentence(err) or "no space" in sentence(err)
    assert not filler.exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    here.kdscale("teachers", "tiny.yaml", "--out", str(out))
    for name, weights in finished.weights("teachers/*").items():
        assert (out / name / "weights.safetensors").read_bytes() == weights

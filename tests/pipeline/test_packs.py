"""Whether members are packed is decided once for a run, and kept."""

import json
from pathlib import Path

import pytest

from kdscale import cluster
from kdscale.cluster import Needs
from kdscale.errors import UserError
from kdscale.pipeline import packs
from kdscale.pipeline.run import Run
from kdscale.recipe import Recipe


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_of(folder: Path, **teachers: object) -> Run:
    tree = {"model": {"name": "mlp", "hidden": [8]}, "count": 10, **teachers}
    made = Run(folder.parent, Recipe(name="r", teachers=tree, student={"model": "mlp"}))
    assert folder == made.dataset
    return made


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two places, a machine that packs five for nothing, and how often it was asked."""
    asked: list[int] = []

    def calibrate(run: Run, most: int, at_once: int, needs: Needs) -> dict[int, float]:
        asked.append(most)
        return {1: 1.0, most: 1.0}

    monkeypatch.setattr(cluster, "places", lambda needs: 2)
    monkeypatch.setattr(packs, "_calibrate", calibrate)
    return asked


ONE = Needs(1, 0.0)


def test_a_decision_is_kept_for_the_rest_of_the_run(dataset_folder: Path, measured: list[int]) -> None:
    said = Said()
    for members in (10, 7, 3):
        assert packs.decide(run_of(dataset_folder), members, ONE, said) == (5, 2)
    assert measured == [5]
    assert said.lines == ["teachers: up to 5 to a process, 5.0 times as fast there as one after the other"]
    kept = json.loads((dataset_folder.parent / "teachers" / "pack.json").read_text())
    assert (kept["size"], kept["by"], kept["milliseconds"]) == (5, "calibration", {"1": 1000.0, "5": 1000.0})
    assert packs.decide(run_of(dataset_folder, count=30), 20, ONE, said) == (5, 2)  # members that are added
    assert measured == [5]


def test_another_way_of_working_is_decided_anew(dataset_folder: Path, measured: list[int]) -> None:
    packs.decide(run_of(dataset_folder), 10, ONE, Said())
    assert packs.decide(run_of(dataset_folder, pack=4), 10, ONE, Said()) == (4, 1)
    assert packs.recorded(run_of(dataset_folder)) is None
    assert measured == [5]


def test_nothing_is_measured_where_there_is_nothing_to_gain(dataset_folder: Path, measured: list[int]) -> None:
    assert packs.decide(run_of(dataset_folder), 2, ONE, Said()) == (1, 2)
    assert packs.recorded(run_of(dataset_folder)) is None  # more members may come
    convnet = run_of(dataset_folder, model={"name": "convnet", "width": 4})
    assert packs.decide(convnet, 10, ONE, Said()) == (1, 2)
    assert packs.recorded(convnet)["by"] == "model"
    assert not measured


def test_a_pack_that_a_gpu_could_not_train_is_refused(dataset_folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\n"
        "class Drawing(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(36, 3)\n"
        "    def forward(self, x):\n"
        "        return nn.functional.dropout(self.layer(x.flatten(1)), 0.5, self.training)\n\n"
        "def drawing(shape, classes):\n"
        "    return Drawing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    drawing = run_of(dataset_folder, model="own_nets:drawing", pack=2)
    packs.check(drawing, gpus=0.0)
    with pytest.raises(UserError, match=r"teachers\.pack: this model cannot be packed .*; take teachers\.pack=1"):
        packs.check(drawing, gpus=1.0)
    packs.check(run_of(dataset_folder, model={"name": "resnet", "depth": 8, "width": 4}, pack=2), gpus=1.0)

"""Specialists end in the same bits in any order and after a kill, and know where their dustbin belongs."""

import math
from pathlib import Path

import pytest
import torch

from kdscale.data import decoded, shards
from kdscale.data.dataset import Dataset
from kdscale.files import read_json
from kdscale.models import zoo
from kdscale.recipe import ModelSpec, Specialists, ViewSpec, WandB
from kdscale.specialists import training
from kdscale.specialists.training import Specialist, SpecialistBatches
from kdscale.tracking.identity import Identity
from kdscale.tracking.job import JobTracker
from kdscale.tracking.status import Status

CPU = torch.device("cpu")
SETTINGS = Specialists(epochs=3, batch_size=8, checkpoint_epochs=0.5, lr=0.01, views=ViewSpec(jitter=1))


class Killed(BaseException):
    """Stands in for SIGKILL."""


def train(data: Path, folder: Path, number: int, soft: bool = False) -> str:
    torch.set_num_threads(1)
    generalist = zoo.build(ModelSpec(name="mlp", hidden=[16], dropout=0.5), (1, 6, 6), 3, 0)
    own = [[0], [2, 1]][number]
    one = Specialist(number, own, seed=number, folder=folder / str(number), fingerprint="f" * 64)

    def tracker(step: int) -> JobTracker:
        return JobTracker(one.folder, "specialists", "s", step, WandB(), lambda: Identity("g", "g", "specialist", "s"))

    settings = SETTINGS.model_copy(update={"soft_rest": soft})
    report = Status(one.folder)
    return training.train(one, generalist, Dataset(data, "train"), settings, CPU, report, tracker)


@pytest.mark.parametrize("soft", [False, True])
def test_results_do_not_depend_on_the_order(dataset_folder: Path, tmp_path: Path, soft: bool) -> None:
    first = {number: train(dataset_folder, tmp_path / "a", number, soft) for number in (0, 1)}
    second = {number: train(dataset_folder, tmp_path / "b", number, soft) for number in (1, 0)}
    assert first == second
    assert first[0] != first[1]


@pytest.mark.parametrize("soft", [False, True])
def test_killed_and_resumed_equals_undisturbed(dataset_folder: Path, tmp_path: Path, monkeypatch, soft: bool) -> None:
    undisturbed = train(dataset_folder, tmp_path / "a", 1, soft)
    whole = SpecialistBatches.__call__
    started = []
    for kill_at in (8, 17):

        def killing(self, step: int, kill_at: int = kill_at):
            started.append(step)
            if step == kill_at:
                raise Killed
            return whole(self, step)

        monkeypatch.setattr(SpecialistBatches, "__call__", killing)
        with pytest.raises(Killed):
            train(dataset_folder, tmp_path / "b", 1, soft)
    monkeypatch.setattr(SpecialistBatches, "__call__", whole)
    assert started.count(0) == 1, "it went on from its checkpoint"
    assert train(dataset_folder, tmp_path / "b", 1, soft) == undisturbed


def test_a_split_that_is_not_kept_decoded_gives_the_same_bits_and_is_not_decoded_twice(
    dataset_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    kept = train(dataset_folder, tmp_path / "a", 1)
    monkeypatch.setattr(decoded, "MOST", 0)
    data = Dataset(dataset_folder, "train")
    for number in range(len(data.shards)):
        data.decoded(number)  # notes where samples lie
    monkeypatch.setattr(shards, "decode", None)
    assert train(dataset_folder, tmp_path / "b", 1) == kept


def test_what_inference_needs_is_kept_and_a_finished_one_is_not_trained_again(
    dataset_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    checksum = train(dataset_folder, tmp_path, 1)
    done = read_json(tmp_path / "1" / "done.json")
    data = Dataset(dataset_folder, "train")
    y = [int(label) for number in range(3) for label in data.decoded(number).y]
    prior = sum(label in (1, 2) for label in y) / len(y)
    assert done["own"] == [2, 1]
    assert done["shift"] == pytest.approx(math.log((1 - prior) / prior))
    monkeypatch.setattr(training, "fit", None)
    assert train(dataset_folder, tmp_path, 1) == checksum

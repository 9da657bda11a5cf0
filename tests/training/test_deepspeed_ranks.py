"""Every file of configs/deepspeed on two gloo ranks, in one spawn; resumed under other stages and numbers of ranks."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import deepspeed_cases as cases
from support import ranks

from kdscale.errors import UserError
from kdscale.training.checkpoints import Checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("group")]
CPU_HAS_FP16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()
TOLERANCE = 1e-5
"""Of losses at another number of ranks or another stage: sums are rounded in another order."""


@pytest.fixture(scope="module")
def undisturbed(group: None) -> list[float]:
    return cases.train(cases.engine(cases.FILES["zero1"]), 0, cases.STEPS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("ones"), tmp_path_factory.mktemp("twos")


@pytest.fixture(scope="module")
def found(group: None, folders: tuple[Path, Path]) -> dict[str, Any]:
    one = cases.engine(cases.FILES["zero1"])
    cases.train(one, 0, cases.HALF)
    Checkpoints(folders[0] / "zero1").save(one, cases.HALF)
    return ranks.spawn(cases.two_ranks, 2, *map(str, folders))[0]


def test_every_file_trains_and_resumes_bit_for_bit(found: dict[str, Any]) -> None:
    assert set(found["files"]) == set(cases.FILES) - (set() if CPU_HAS_FP16 else {"fp16"})
    for name, seen in found["files"].items():
        assert seen["losses"][-1] < seen["losses"][2], name  # the same batch
        assert seen["resumed"], name
        assert seen["weights"] == 0.0, name


def test_half_precision_with_loss_scaling_is_refused_where_the_cpu_cannot(found: dict[str, Any]) -> None:
    assert set(found["refused"]) == (set() if CPU_HAS_FP16 else {"fp16"})
    assert all("fp16 does not work on this CPU" in sentence for sentence in found["refused"].values())


def test_frozen_parameters_come_back(found: dict[str, Any]) -> None:
    assert set(found["frozen"].values()) == {0.0}


def test_blocks_computed_again_give_the_same_bits(found: dict[str, Any]) -> None:
    assert set(found["recompute"].values()) == {0.0}


def test_a_stage_resumes_under_another(found: dict[str, Any], undisturbed: list[float]) -> None:
    assert len(found["across"]) == 15
    for name, losses in found["across"].items():
        assert losses == pytest.approx(undisturbed[cases.HALF :], rel=TOLERANCE), name


def test_one_rank_resumes_at_two(found: dict[str, Any], undisturbed: list[float]) -> None:
    for name, losses in found["from one"].items():
        assert losses == pytest.approx(undisturbed[cases.HALF :], rel=TOLERANCE), name


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("under", ["zero0", "zero1", "zero2", "zero3"])
def test_two_ranks_resume_at_one(folders: tuple[Path, Path], undisturbed: list[float], under: str) -> None:
    for saved in ("zero0", "zero1", "zero2", "zero3", "zero2_offload"):
        other = cases.engine(cases.FILES[under], seed=9)
        assert Checkpoints(folders[1] / saved).restore(other) == cases.HALF
        losses = cases.train(other, cases.HALF, cases.STEPS)
        assert losses == pytest.approx(undisturbed[cases.HALF :], rel=TOLERANCE), saved


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("what", ["changed", "cut", "gone"])
def test_a_damaged_checkpoint_is_named(folders: tuple[Path, Path], tmp_path: Path, what: str) -> None:
    one = cases.engine(cases.FILES["zero1"])
    Checkpoints(tmp_path).save(one, 2)
    path = tmp_path / "step-000000002" / "rank-00000.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if what != "gone":
        path.write_bytes(whole[:-9] if what == "cut" else whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(UserError, match=re.escape(f"{path}: the checkpoint's file is missing or was changed")):
        Checkpoints(tmp_path).restore(one)


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    cases.engine(cases.FILES["zero1"]).save(tmp_path)
    other = cases.engine(cases.FILES["zero1"], model=cases.MLP.model_copy(update={"hidden": [5]}))
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        other.load(tmp_path)

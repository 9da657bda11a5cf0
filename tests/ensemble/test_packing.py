"""Packed members: each ends as if it had been trained alone, whoever is packed with it and whatever happens on the way."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdscale.data.batches import Batch, Batches, PackedBatches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.ensemble import packing, replica
from kdscale.ensemble.packing import InTurn, Stacked
from kdscale.ensemble.replica import Member, packs, train_members
from kdscale.ensemble.stacking import is_chain
from kdscale.errors import RunFailure, Stopped, UserError
from kdscale.models import zoo
from kdscale.recipe import Data, ModelSpec, Recipe, Teachers, ViewSpec
from kdscale.seeds import derive
from kdscale.training import objectives
from kdscale.training.checkpoints import Checkpoints
from kdscale.training.engine import TorchEngine

CPU = torch.device("cpu")
STEPS = 50
VIEWS = {"rotate": 15, "scale": 0.1, "jitter": 1}
MODELS = {
    "mlp": {"hidden": [24, 16], "dropout": 0.3, "input_dropout": 0.1},
    "convnet": {"width": 4, "dropout": 0.2},
    "resnet": {"depth": 8, "width": 4},
    "wide_resnet": {"depth": 10, "width": 1, "dropout": 0.3},
}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing may catch it."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(model: str = "mlp", **teachers: object) -> Recipe:
    tree = {
        "model": {"name": model, **MODELS[model]},
        "epochs": 6,
        "batch_size": 8,
        "lr": 0.01,
        "weight_decay": 0.01,
        "max_norm": 2.0,
        "views": VIEWS,
        "checkpoint_epochs": 0.7,
    }
    return Recipe(
        name="r",
        data=Data(lanes=4, window=10),
        teachers=Teachers.model_validate({**tree, **teachers}),
        student={"model": "mlp"},
    )


def train(
    data: Path,
    folder: Path,
    seeds: Sequence[int],
    pack: int,
    settings: Recipe | None = None,
    stop: bool = False,
) -> dict[int, replica.Result]:
    results: dict[int, replica.Result] = {}
    members = [Member(seed, folder / f"seed-{seed}", "f" * 64) for seed in seeds]
    if stop:
        folder.mkdir(exist_ok=True)
        (folder / ".stop").touch()
    for together in packs(members, pack):
        results |= train_members(together, folder / ".stop", settings or recipe(), data, 0.0)
    return results


def rows(folder: Path, seed: int) -> list[dict]:
    return [json.loads(line) for line in (folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def alone(dataset_folder: Path, tmp_path: Path) -> dict[int, replica.Result]:
    """Four members, each trained by itself."""
    return train(dataset_folder, tmp_path / "alone", range(4), 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_packed_member_has_the_bytes_of_one_trained_alone(
    dataset_folder: Path, tmp_path: Path, model: str, precision: str
) -> None:
    settings = recipe(model, epochs=2, precision=precision)
    alone = train(dataset_folder, tmp_path / "alone", range(3), 1, settings)
    packed = train(dataset_folder, tmp_path / "packed", range(3), 3, settings)
    assert alone == packed


def test_a_packed_member_leaves_the_record_of_one_trained_alone(
    dataset_folder: Path, tmp_path: Path, alone: dict
) -> None:
    train(dataset_folder, tmp_path / "packed", range(4), 4)
    for seed in range(4):
        mine, its = rows(tmp_path / "packed", seed), rows(tmp_path / "alone", seed)
        assert [row["step"] for row in mine] == [row["step"] for row in its]
        assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in its], rel=1e-6)
        done = json.loads((tmp_path / "packed" / f"seed-{seed}" / "done.json").read_text())
        assert (done["weights"], done["seed"], done["pack"]) == (alone[seed], seed, 4)
        status = json.loads((tmp_path / "packed" / f"seed-{seed}" / "status.json").read_text())
        assert (status["state"], status["job"]) == ("done", f"seed-{seed}")
        assert not (tmp_path / "packed" / f"seed-{seed}" / "checkpoints").exists()


@pytest.mark.parametrize("seeds", [[3, 0], [1, 3, 2, 0], [2, 3, 1]], ids=str)
def test_who_shares_a_pack_and_in_which_order_changes_nothing(
    dataset_folder: Path, tmp_path: Path, alone: dict, seeds: list[int]
) -> None:
    packed = train(dataset_folder, tmp_path / "packed", seeds, 4)
    assert packed == {seed: alone[seed] for seed in seeds}


def killing(monkeypatch: pytest.MonkeyPatch, at: int | None, saves: int | None = None) -> None:
    """Kill at a step, or after so many members' checkpoints were saved."""
    step, save, seen = PackedBatches.__call__, Checkpoints.save, []

    def stepping(self: PackedBatches, number: int):
        if number == at:
            raise Killed
        return step(self, number)

    def saving(self: Checkpoints, model, number: int, wait: bool = True) -> None:
        if saves is not None and len(seen) == saves:
            raise Killed
        seen.append(number)
        save(self, model, number, wait)

    monkeypatch.setattr(replica.PackedBatches, "__call__", stepping)
    monkeypatch.setattr(Checkpoints, "save", saving)


@pytest.mark.parametrize("then", [4, 2, 1])
def test_a_killed_pack_goes_on_in_packs_of_any_size(
    dataset_folder: Path, tmp_path: Path, alone: dict, monkeypatch: pytest.MonkeyPatch, then: int
) -> None:
    for at in (3, 17, 40):
        with monkeypatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                train(dataset_folder, tmp_path / "packed", range(4), 4)
    assert train(dataset_folder, tmp_path / "packed", range(4), then) == alone
    for seed in range(4):
        steps = [row["step"] for row in rows(tmp_path / "packed", seed)]
        assert steps == [row["step"] for row in rows(tmp_path / "alone", seed)]


@pytest.mark.parametrize("saves", [1, 3, 6])
def test_a_pack_that_is_killed_between_two_members_checkpoints_loses_neither(
    dataset_folder: Path, tmp_path: Path, alone: dict, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    with monkeypatch.context() as patch:
        killing(patch, None, saves)
        with pytest.raises(Killed):
            train(dataset_folder, tmp_path / "packed", range(4), 4)
    behind = {Member(seed, tmp_path / "packed" / f"seed-{seed}", "f" * 64).checkpoints.step for seed in range(4)}
    assert len(behind) == 2
    assert train(dataset_folder, tmp_path / "packed", range(4), 4) == alone


def test_members_trained_alone_so_far_go_on_as_a_pack(dataset_folder: Path, tmp_path: Path, alone: dict) -> None:
    for seed in range(4):
        with pytest.raises(Stopped):
            train(dataset_folder, tmp_path / "packed", [seed], 1, stop=True)
    (tmp_path / "packed" / ".stop").unlink()
    assert train(dataset_folder, tmp_path / "packed", range(4), 4) == alone


def test_a_stop_request_saves_every_member(dataset_folder: Path, tmp_path: Path, alone: dict) -> None:
    with pytest.raises(Stopped):
        train(dataset_folder, tmp_path / "packed", range(4), 4, stop=True)
    assert len(list((tmp_path / "packed").glob("seed-*/checkpoints/*/latest.json"))) == 4
    (tmp_path / "packed" / ".stop").unlink()
    assert train(dataset_folder, tmp_path / "packed", range(4), 4) == alone


def test_a_pack_that_is_asked_to_divide_saves_and_goes_on_in_parts(
    dataset_folder: Path, tmp_path: Path, alone: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, step = tmp_path / "packed", PackedBatches.__call__

    def asking(self: PackedBatches, number: int):
        if number == 20:
            (folder / "seed-0" / replica.DIVIDE).touch()
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(replica.PackedBatches, "__call__", asking)
        results = train(dataset_folder, folder, range(4), 4)
    assert all(isinstance(result, replica.PutBack) for result in results.values())
    (behind,) = {Member(seed, folder / f"seed-{seed}", "f" * 64).checkpoints.step for seed in range(4)}
    assert behind > 20
    assert not (folder / "seed-0" / replica.DIVIDE).exists()
    assert train(dataset_folder, folder, range(4), 2) == alone


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_a_member_that_diverges_is_reported_and_the_others_finish(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    settings = recipe(model, epochs=2)
    alone = train(dataset_folder, tmp_path / "alone", [0, 2], 1, settings)
    build = zoo.build

    def broken(spec: ModelSpec, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
        made = build(spec, shape, classes, seed)
        if seed == derive(1, "weights"):
            nn.init.constant_(next(made.parameters()), math.inf)
        return made

    monkeypatch.setattr(replica.zoo, "build", broken)
    packed = train(dataset_folder, tmp_path / "packed", range(3), 3, settings)
    assert isinstance(failure := packed.pop(1), RunFailure)
    assert "the loss is nan after step" in str(failure)
    assert packed == alone
    status = json.loads((tmp_path / "packed" / "seed-1" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["error"] == str(failure)
    assert not (tmp_path / "packed" / "seed-1" / "done.json").exists()
    with monkeypatch.context() as patch:  # all of a pack
        patch.setattr(replica.zoo, "build", lambda *spec: broken(*spec[:3], derive(1, "weights")))
        assert all(
            isinstance(result, RunFailure)
            for result in train(dataset_folder, tmp_path / "all", [0, 1], 2, settings).values()
        )


def cross_entropy(logits: Tensor, batch: Batch) -> objectives.Losses:
    """objectives.hard in the logits' own precision."""
    each = nn.functional.cross_entropy(logits.flatten(0, -2), batch.y.flatten(), reduction="none")
    return {"loss": each.view(batch.y.shape).mean(-1)}


def losses(engine, batches: Callable, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """(steps, members) losses of a constant rate."""
    found = []
    for step in range(STEPS):
        batch = batches(step)
        engine.seed([derive(seed, "step", step) for seed in seeds])
        taken = engine.step(Batch(batch.x.to(dtype), batch.y), cross_entropy, 0.001)
        found.append(taken["loss"].detach().reshape(-1).clone())
    return torch.stack(found)


def batches_of(data: Path, seed: int) -> Batches:
    dataset = Dataset(data, "train")
    pixels = Pixels(dataset.manifest, True, ViewSpec.model_validate(VIEWS), derive(seed, "views"), CPU)
    return Batches(dataset, Order(dataset.sizes, seed, 16, 4, 10), pixels, lambda epoch: epoch + 1, range(4))


F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize(
    ("model", "way", "dtype"),
    [
        ("mlp", "products", F32),
        ("mlp", "vmap", F32),
        ("convnet", "vmap", F32),
        ("resnet", "vmap", F32),
        ("resnet", "vmap", F64),
        ("wide_resnet", "vmap", F64),
    ],
)
def test_losses_of_a_stack_are_those_of_its_members_alone(
    dataset_folder: Path, model: str, way: str, dtype: torch.dtype
) -> None:
    """50 steps, relative to 1e-4: what packing promises on any device.

    The small wide_resnet has weights whose gradient is all rounding, and AdamW makes whole steps of them: alone, with weights
    changed by 1e-7, it differs from itself by 3e-3 after 50 steps in float32. In float64 a fault would show and rounding does not.
    """
    seeds = [5, 3, 8]

    def made(seed: int) -> nn.Module:
        return zoo.build(ModelSpec(name=model, **MODELS[model]), (1, 6, 6), 3, seed).to(dtype)

    batches = [batches_of(dataset_folder, seed) for seed in seeds]
    stack = Stacked([made(seed) for seed in seeds], CPU, 0.01, max_norm=2.0, way=way)
    together = losses(stack, PackedBatches(batches), seeds, dtype)
    for i, seed in enumerate(seeds):
        engine = TorchEngine(made(seed), CPU, 0.01, max_norm=2.0)
        alone = losses(engine, batches[i], [seed], dtype)[:, 0]
        assert torch.allclose(together[:, i], alone, rtol=1e-4 if dtype == F32 else 1e-10, atol=0)
        mine, its = stack.models[i].weights(), engine.weights()
        assert list(mine) == list(its)
        assert all(torch.allclose(mine[name], its[name], rtol=1e-2, atol=1e-3) for name in its)


def test_a_stack_and_a_member_alone_read_each_others_checkpoints(dataset_folder: Path, tmp_path: Path) -> None:
    spec, batches = ModelSpec(name="wide_resnet", **MODELS["wide_resnet"]), batches_of(dataset_folder, 1)
    alone = [TorchEngine(zoo.build(spec, (1, 6, 6), 3, seed), CPU) for seed in range(2)]
    for engine in alone:
        engine.seed([1])
        engine.step(batches(0), objectives.hard, 0.01)
    stack = Stacked([zoo.build(spec, (1, 6, 6), 3, 7) for _ in alone], CPU)
    for i, engine in enumerate(alone):
        engine.save(tmp_path / f"alone-{i}")
        stack.models[i].load(tmp_path / f"alone-{i}")
        stack.models[i].save(tmp_path / f"stack-{i}")
        saved = [tmp_path / f"{kind}-{i}" / "state.safetensors" for kind in ("alone", "stack")]
        assert saved[0].read_bytes() == saved[1].read_bytes()


def test_views_of_several_members_made_together_are_those_of_each(dataset_folder: Path) -> None:
    batches = [batches_of(dataset_folder, seed) for seed in (4, 9, 2)]
    together = PackedBatches(batches)
    for step in (0, 3, 11):
        for i, member in enumerate(batches):
            assert torch.equal(together(step).x[i], member(step).x)
            assert torch.equal(together(step).y[i], member(step).y)


class OwnScale(nn.Module):
    """Differs from seed to seed in what is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(36, 3), float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * self.scale


class OwnDraws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(x.flatten(1)), 0.5, self.training)


class OwnWidth(nn.Sequential):
    def __init__(self) -> None:
        width = int(torch.randint(2, 2000, ()))
        super().__init__(nn.Flatten(), nn.Linear(36, width), nn.Linear(width, 3))


class Tied(nn.Module):
    """Two names for one weight, a frozen parameter, one that is not used, and dropout that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.b.weight = self.a.weight
        self.out.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.b(self.drop(torch.relu(self.a(x.flatten(1))))))))


def seeded(make: Callable[[], nn.Module], count: int = 2) -> list[nn.Module]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(make())
    return made


@pytest.mark.parametrize(
    ("make", "why"),
    [(OwnScale, "something else"), (OwnDraws, "random"), (OwnWidth, "differ from seed to seed")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_models_that_packing_would_change_are_refused(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(
        UserError, match=rf"teachers\.pack: this model cannot be packed \(.*{why}.*take teachers\.pack=1"
    ):
        packing.check(seeded(make), torch.randn(4, 1, 6, 6), recipe().teachers)


def test_on_a_cpu_such_models_are_trained_in_turn(dataset_folder: Path) -> None:
    seeds, batches = [0, 1], [batches_of(dataset_folder, seed) for seed in range(2)]
    engine = packing.engine(seeded(OwnDraws), CPU, recipe().teachers)
    assert isinstance(engine, InTurn)
    together = losses(engine, PackedBatches(batches), seeds)
    for i, model in enumerate(seeded(OwnDraws)):
        alone = losses(packing.engine([model], CPU, recipe().teachers), batches[i], [seeds[i]])
        assert torch.equal(together[:, i], alone[:, 0])


def test_tied_frozen_and_unused_parameters_are_those_of_members_alone(dataset_folder: Path, tmp_path: Path) -> None:
    batches = [batches_of(dataset_folder, seed) for seed in range(2)]
    stack = Stacked(seeded(Tied), CPU, 0.01)
    losses(stack, PackedBatches(batches), [0, 1])
    for i, model in enumerate(seeded(Tied)):
        engine = TorchEngine(model, CPU, 0.01)
        losses(engine, batches[i], [i])
        mine, its = stack.models[i].weights(), engine.weights()
        assert list(mine) == list(its)
        assert all(torch.allclose(mine[name], its[name], atol=1e-4) for name in its)
        assert torch.equal(mine["a.weight"], mine["b.weight"])
        stack.models[i].save(tmp_path / str(i))
        engine.load(tmp_path / str(i))


@pytest.mark.parametrize(
    ("model", "chain"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Sequential(nn.GELU(), nn.Dropout(0.1)), nn.Linear(4, 3)),
            True,
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)), True),
        (nn.Sequential(nn.Linear(4, 3)), False),  # might get more than vectors
        (nn.Sequential(nn.Flatten(2), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), False),
        (nn.Sequential(nn.Flatten(), *[nn.Linear(4, 4)] * 2), False),
        (nn.Flatten(), False),
    ],
    ids=range(9),
)
def test_chains_are_told_from_other_models(model: nn.Module, chain: bool) -> None:
    assert is_chain(model) == chain


def test_a_hooked_layer_is_no_chain() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, arguments, output: output * 2)
    assert not is_chain(model)


@pytest.mark.parametrize(
    ("model", "device", "threads", "way"),
    [
        ("mlp", "cpu", 1, "products"),
        ("mlp", "cpu", 2, "in turn"),
        ("mlp", "cuda", 2, "products"),
        ("convnet", "cpu", 1, "in turn"),
        ("resnet", "cuda", 1, "vmap"),
    ],
)
def test_the_way_of_packing_follows_model_and_device(model: str, device: str, threads: int, way: str) -> None:
    net = zoo.build(ModelSpec(name=model, **MODELS[model]), (1, 6, 6), 3, 0)
    assert packing.way(net, torch.device(device), threads) == way


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_packs_are_even_and_leave_no_one_out(members: int, most: int, least: int) -> None:
    made = packs([Member(seed, Path("nowhere"), "f") for seed in range(members)], most, least)
    assert [member.seed for pack in made for member in pack] == list(range(members))
    sizes = [len(pack) for pack in made]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(made) == max(-(-members // most), min(members, least))

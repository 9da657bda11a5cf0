"""Targets fused from what each codec holds, and read by shard or by key."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdscale.ensemble.fusion import mean_logit
from kdscale.ensemble.targets import Targets, fused
from kdscale.errors import UserError
from kdscale.logits import Store, StoreInfo, label
from kdscale.logits.dense import Dense
from kdscale.logits.sampled import Sampled
from kdscale.logits.topk import TopK
from kdscale.training.objectives.gradient import softened

Z = np.random.default_rng(0).normal(size=(3, 5, 12)).astype(np.float32) * 3


def rows(codec, temperature: float) -> list:
    draws = np.linspace(0, 0.9, 5)
    return [codec.decode(pa.table(codec.encode(z, draws)), 12, temperature) for z in Z]


def test_dense_rows_take_any_rule() -> None:
    target = fused(rows(Dense("float32"), 2.0), "mean_logit", 2.0)
    assert torch.allclose(target["p"], mean_logit(torch.from_numpy(Z), 2.0))


def test_heads_stay_side_by_side_with_their_tails() -> None:
    target = fused(rows(TopK(4, [2.0]), 2.0), "mean_probability", 2.0)
    assert target["ids"].shape == target["p"].shape == (5, 3, 4)
    assert torch.allclose(target["p"].sum(2) + target["tail"], torch.ones(5, 3))


def test_draws_of_members_are_one_distribution() -> None:
    target = fused(rows(Sampled(6, 2.0), 2.0), "mean_probability", 2.0)
    assert target["ids"].shape[1] == 1
    assert torch.allclose(target["p"].sum((1, 2)), torch.ones(5))
    assert not target["tail"].any()


@pytest.mark.parametrize("codec", [TopK(4, [2.0]), Sampled(6, 2.0)])
def test_a_rule_that_needs_all_logits_is_refused(codec) -> None:
    with pytest.raises(UserError, match=r"mean_logit needs every logit, which only logits.codec dense keeps"):
        fused(rows(codec, 2.0), "mean_logit", 2.0)


def write(folder: Path, codec: dict, parts: tuple[str, ...] = ("one", "two")) -> Store:
    """Three members, two shards of five rows, keys `one-0` to `two-4`."""
    store = Store.create(folder, StoreInfo(dataset="mine", classes=12, codec=codec))
    for number, part in enumerate(parts):
        for member, z in zip("abc", Z + number, strict=True):
            label(store, member, "v1", lambda x: x, [(part, [f"{part}-{row}" for row in range(5)], z)])
    return store


DENSE = {"name": "dense", "dtype": "float32"}


def test_a_shard_is_read_in_the_order_that_is_asked_for_each_time(tmp_path: Path) -> None:
    targets = Targets(write(tmp_path, DENSE), 2.0)
    keys = [f"one-{row}" for row in range(5)]
    whole = targets.shard("one", keys)["p"]
    assert torch.equal(targets.shard("one", keys[::-1])["p"], whole.flip(0))
    assert torch.equal(targets.shard("one", tuple(keys[1:3]))["p"], whole[1:3])
    assert torch.equal(targets.of(["one-4", "two-1", "one-0"])["p"][::2], whole[[4, 0]])


def test_shards_that_were_labelled_later_are_found(tmp_path: Path) -> None:
    targets = Targets(write(tmp_path, DENSE, ("one",)), 2.0)
    assert targets.of(["one-0"])["p"].shape == (1, 12)
    with pytest.raises(UserError, match="has no row for the sample two-0; label its shard first"):
        targets.of(["two-0"])
    write(tmp_path, DENSE)
    assert targets.of(["one-0", "two-0"])["p"].shape == (2, 12)


def test_a_key_of_two_shards_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path, DENSE)
    label(store, "a", "v1", lambda x: x, [("three", ["one-3"], Z[0, :1])])
    with pytest.raises(UserError, match="the sample one-3 is in one and in three; read by shard instead"):
        Targets(store, 2.0, ["a"]).of(["two-1"])


def test_members_can_be_left_out(tmp_path: Path) -> None:
    store = write(tmp_path, DENSE)
    assert Targets(store, 2.0, without=["b"]).members == ["a", "c"]
    assert Targets(store, 2.0, ["c", "a"], without=["a"]).members == ["c"]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"members": ["a", "d"]}, "holds no member d; it has a, b, c"),
        ({"without": ["d"]}, "holds no member d; it has a, b, c"),
        ({"without": ["a", "b", "c"]}, "no member is left without a, b, c"),
        ({"weights": {"d": 2.0}}, "holds no member d; it has a, b, c"),
        ({"weights": {"a": -1.0}}, "weights: a has -1; take a positive number, or leave it out"),
        ({"temperature": 0}, "temperature: 0 is not a positive number"),
        ({"rule": "vote"}, "fusion: vote is not one of mean_probability, mean_logit"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(tmp_path: Path, how: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Targets(write(tmp_path, DENSE), **{"temperature": 2.0, **how})


def test_another_temperature_of_a_sampled_store_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path, {"name": "sampled", "draws": 6, "temperature": 2.0})
    assert Targets(store, 2.0).of(["two-1"])["p"].shape[:2] == (1, 1)
    with pytest.raises(UserError, match="serves T = 2, not 4; make the store at that temperature"):
        Targets(store, 4.0).of(["two-1"])
    with pytest.raises(UserError, match="uncertainty: counts of a few draws"):
        Targets(store, 2.0, measures=True).of(["two-1"])


@pytest.mark.parametrize("rule", ["mean_probability", "mean_logit"])
def test_an_open_temperature_gives_the_target_of_any(rule: str) -> None:
    weights = [1.0, 2.0, 1.0]
    target = fused(rows(Dense("float32"), 1.0), rule, None, weights)
    for temperature in (1.0, 3.5):
        expected = fused(rows(Dense("float32"), 1.0), rule, temperature, weights)["p"]
        assert torch.allclose(softened(target, temperature), expected, atol=1e-6)


def test_an_open_temperature_needs_every_logit() -> None:
    with pytest.raises(UserError, match=r"needs every logit, which only logits.codec dense keeps"):
        fused(rows(TopK(4, [2.0]), 2.0), "mean_probability", None)

"""Compaction: a fused set says what its members said."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.ensemble import compaction, covers
from kdscale.ensemble.targets import Targets
from kdscale.errors import UserError
from kdscale.logits import codecs
from kdscale.logits.records import Slot, StoreInfo
from kdscale.logits.sampled import counts_of
from kdscale.logits.store import Store

N, C, T = 40, 30, 3.0
KEYS = [f"k{i}" for i in range(N)]
MEMBERS = {f"seed-{m}": f"w{m}" for m in range(4)}


def make_store(folder: Path, **codec) -> Store:
    store = Store.create(folder, StoreInfo(dataset="d", classes=C, codec=codec))
    for m, (name, checkpoint) in enumerate(MEMBERS.items()):
        z = np.random.default_rng(m).normal(size=(N, C)).astype(np.float32) * 2
        store.commit(Slot("s", 0, name), KEYS, z, checkpoint)
    return store


def through_the_set(store: Store, rule: str, weights: dict[str, float], temperature: float, fused: list[str]):
    """The targets of all members, and those by way of a fused set of some of them."""
    made_of = compaction.make({n: MEMBERS[n] for n in fused}, weights, rule, temperature, store.codec)
    record = compaction.fuse_shard(store, "s", 0, made_of, "sha")
    assert record.member == compaction.set_name(made_of)
    assert compaction.fuse_shard(store, "s", 0, made_of, "sha") == record
    listing = store.listing()
    size = {name: listing.totals(name)[2] / N for name in listing.members}
    parts = covers.cheapest(MEMBERS, weights, rule, temperature, [listing.members[record.member]], size)
    assert parts[0].member == record.member
    assert len(parts) == 1 + len(MEMBERS) - len(fused)
    read = [Targets(store, temperature, MEMBERS, weights, rule, p).shard("s", KEYS) for p in (None, parts)]
    return read, record


@pytest.mark.parametrize("rule", ["mean_probability", "mean_logit"])
@pytest.mark.parametrize("weights", [{}, {"seed-1": 3.0}], ids=["equal", "weighted"])
@pytest.mark.parametrize("fused", [list(MEMBERS), ["seed-1", "seed-3"]], ids=["all", "some"])
def test_a_mean_of_means_is_the_mean(tmp_path: Path, rule: str, weights: dict[str, float], fused: list[str]) -> None:
    store = make_store(tmp_path, name="dense", dtype="float32")
    (whole, covered), record = through_the_set(store, rule, weights, T, fused)
    assert torch.allclose(whole["p"], covered["p"], atol=1e-6)
    assert record.temperatures == (None if rule == "mean_logit" else [T])
    if rule == "mean_probability":
        with pytest.raises(UserError, match="this fused set serves T = 3, not 1; read its members, or fuse them again"):
            store.read(record.slot).at(1.0)


def test_counts_add_up_on_disk(tmp_path: Path) -> None:
    store = make_store(tmp_path, name="sampled", draws=6, temperature=T)
    (whole, covered), record = through_the_set(store, "mean_probability", {}, T, list(MEMBERS))

    def dense(target: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.zeros(N, C).scatter_add_(1, target["ids"][:, 0], target["p"][:, 0])

    assert torch.allclose(dense(whole), dense(covered), atol=1e-6)
    _, _, counts = counts_of(store.read(record.slot).table.column("tokens").combine_chunks(), C)
    assert counts.sum() == 4 * 6 * N
    assert record.codec == codecs.make("sampled", draws=24, temperature=T).describe()
    single = sum(store.record(Slot("s", 0, name)).bytes for name in MEMBERS)
    assert record.bytes < single / 2


def test_what_cannot_be_fused_is_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(codec: codecs.Codec, match: str, rule="mean_probability", weights=None, t=T) -> None:
        with pytest.raises(UserError, match=match):
            compaction.make(MEMBERS, weights or {}, rule, t, codec)

    refused(codecs.make("topk", k=3, temperatures=[T]), "top-k heads of different members do not add up")
    draws = codecs.make("sampled", draws=5, temperature=T)
    refused(draws, "counts of draws add up to the plain mean probability alone", rule="mean_logit")
    refused(draws, "counts of draws add up to the plain mean probability alone", weights={"seed-0": 2.0})
    refused(draws, "draws are of T = 3, not 1", t=1.0)
    refused(codecs.make("dense"), "fuse: borda is not one of", rule="borda")


def test_members_of_other_weights_are_not_fused(tmp_path: Path) -> None:
    store = make_store(tmp_path, name="dense", dtype="float16")
    other = {**MEMBERS, "seed-2": "trained anew"}
    with pytest.raises(UserError, match="made by other weights of seed-2"):
        compaction.fuse_shard(store, "s", 0, compaction.make(other, {}, "mean_logit", T, store.codec), "sha")

"""The store of a whole run: its health, and students from every codec."""

import json
import os

import pytest
from support.place import Place, sentence

from kdscale.logits.store import Store

pytestmark = pytest.mark.slow


def blocks(place: Place) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (place.run / "logits" / "blocks").rglob("*.arrow")}


def info(place: Place) -> dict:
    return json.loads(place.kdscale("logits", "info", "runs/tiny", "--json")[0])


def test_info_of_a_whole_store(finished) -> None:
    seen = info(finished)
    assert seen["members"] == ["seed-0", "seed-1", "seed-2"]
    assert seen["missing"] == []
    assert seen["rows"] == 3 * sum(
        s["samples"] for s in json.loads((finished.run / "data/manifest.json").read_text())["splits"]["train"]
    )
    assert seen["fidelity"]["kl"] < 1e-4
    assert seen["fidelity"]["agreement"] == 1
    out, _ = finished.kdscale("logits", "info", "runs/tiny")
    assert "fidelity         at T = 4" in out
    assert "codec            dense, dtype float16" in out
    assert "temperatures     any" in out


def test_what_is_hurt_is_found_and_mended_alone(copy) -> None:
    before = blocks(copy)
    assert copy.kdscale("logits", "fsck", "runs/tiny")[0].startswith("0 faults")
    store = copy.run / "logits"
    commits = sorted((store / "commits").rglob("*.json"))
    flipped, cut, lost, foreign, gone = (json.loads(commits[i].read_text()) for i in (0, 4, 8, 12, 16))
    payload = bytearray((store / flipped["file"]).read_bytes())
    payload[len(payload) // 2] ^= 4
    (store / flipped["file"]).write_bytes(payload)
    (store / cut["file"]).write_bytes((store / cut["file"]).read_bytes()[:100])
    (store / lost["file"]).unlink()
    commits[12].write_text(json.dumps({**foreign, "shard_sha256": "0" * 64}))
    commits[16].unlink()
    out, err = copy.kdscale("logits", "fsck", "runs/tiny", code=1)
    assert "5 blocks of the store are bad or missing" in sentence(err)
    for what in ("checksum differs", "block is missing", "another version of the shard", "no block is committed"):
        assert what in out
    kept = {p: p.stat().st_mtime_ns for p in (store / "blocks").rglob("*.arrow") if before[p.name] == p.read_bytes()}
    out, _ = copy.kdscale("logits", "fsck", "runs/tiny", "--repair")
    assert "5 faults, mended" in out
    assert blocks(copy) == before
    moved = {foreign["file"], gone["file"]}  # whole blocks that were set aside or written again
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items() if str(p.relative_to(store)) not in moved)
    assert list((store / ".quarantine").rglob("*.arrow"))
    assert copy.kdscale("logits", "fsck", "runs/tiny")[0].startswith("0 faults")


def test_a_damaged_commit_log_is_named_and_made_again_from_the_blocks(copy) -> None:
    before, seen = blocks(copy), info(copy)
    assert Store.open(copy.run / "logits").commits.compact(at_least=1)
    (log,) = (copy.run / "logits" / "log").glob("*.arrow")
    damaged = bytearray(log.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    log.write_bytes(damaged)
    assert "the commit log is damaged" in sentence(copy.kdscale("logits", "info", "runs/tiny", code=2)[1])
    copy.kdscale("logits", "fsck", "runs/tiny", "--repair")
    assert copy.kdscale("logits", "fsck", "runs/tiny")[0].startswith("0 faults")
    assert blocks(copy) == before
    assert {name: info(copy)[name] for name in ("members", "rows", "shards")} == {
        name: seen[name] for name in ("members", "rows", "shards")
    }


def test_pruned_and_exported(copy) -> None:
    left = copy.run / "logits" / "blocks" / "seed-0" / "left-by-a-kill.arrow"
    left.write_bytes(b"x" * 1000)
    os.utime(left, (1, 1))
    assert "1 files, 0.00 MB would be deleted" in copy.kdscale("logits", "prune", "runs/tiny", "--dry-run")[0]
    before = blocks(copy)
    assert "1 files, 0.00 MB deleted" in copy.kdscale("logits", "prune", "runs/tiny")[0]
    assert blocks(copy) == {name: block for name, block in before.items() if name != "left-by-a-kill.arrow"}
    out, _ = copy.kdscale("logits", "export", "runs/tiny", "out.parquet")
    assert out == f"out.parquet: {info(copy)['rows']} rows\n"


def test_a_block_of_other_weights_is_found_by_labelling_again(copy) -> None:
    store = copy.run / "logits"
    one, other = (sorted((store / f"commits/seed-{seed}").rglob("*.json"))[0] for seed in (0, 1))
    mine, theirs = json.loads(one.read_text()), json.loads(other.read_text())
    one.write_text(json.dumps({**mine, **{name: theirs[name] for name in ("file", "bytes", "checksum")}}))
    out, _ = copy.kdscale("logits", "fsck", "runs/tiny", "--share", "1", code=1)
    assert "seed-0's weights give other logits than the block holds" in out


@pytest.mark.parametrize(
    "codec",
    [
        pytest.param(["logits.dtype=int8"], id="int8", marks=pytest.mark.soak),
        pytest.param(["logits.codec=topk", "logits.k=4"], id="topk"),
        pytest.param(["logits.codec=sampled", "logits.draws=16"], id="sampled", marks=pytest.mark.soak),
    ],
)
def test_a_student_learns_from_every_codec(copy, finished, codec: list[str]) -> None:
    _, err = copy.kdscale("run", "tiny.yaml", *codec)
    assert "teachers: done before" in err
    seen = json.loads((copy.run / "results.json").read_text())["splits"]["test"]
    dense = json.loads((finished.run / "results.json").read_text())["splits"]["test"]
    assert seen["control"] == dense["control"]
    assert seen["student"]["nll"] != dense["student"]["nll"]
    assert seen["student"]["accuracy"] > dense["student"]["accuracy"] - 0.08
    assert info(copy)["fidelity"]["agreement"] > 0.9


def test_a_codec_that_cannot_serve_is_refused_at_once(copy) -> None:
    for overrides, message in (
        (["logits.codec=topk", "fusion=mean_logit"], "keeps too little for fusion mean_logit"),
        (["logits.codec=topk", "logits.temperatures=[1]"], "lacks student.temperature 4.0; add it"),
        (["logits.codec=sampled", "logits.temperatures=[1, 4]"], "sampled serves one temperature"),
    ):
        _, err = copy.kdscale("run", "tiny.yaml", *overrides, code=2)
        assert message in sentence(err)

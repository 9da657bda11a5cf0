"""Commit records: found fast, compacted, never lost."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscale.errors import UserError
from kdscale.logits import commits
from kdscale.logits.commits import Commits, DamagedLog, Listing, table_of
from kdscale.logits.places import Folder, open_place
from kdscale.logits.records import Record, Slot, block_path


def record(shard: str = "s-0.tar", view: int = 0, member: str = "seed-0", checksum: int = 1, **changes) -> Record:
    facts = {
        "dataset": "d",
        "split": "train",
        "views": "plain",
        "member": member,
        "checkpoint": f"weights of {member}",
        "codec": {"name": "dense", "dtype": "float16"},
        "shard": shard,
        "shard_sha256": f"sha of {shard}",
        "view": view,
        "rows": 7,
        "bytes": 100 + view,
        "checksum": f"{checksum:032x}",
    }
    return Record(**{**facts, **changes}, file=block_path(Slot(shard, view, member), facts["checksum"]))


slots = st.tuples(st.integers(0, 6), st.integers(0, 2), st.sampled_from(["seed-0", "seed-1", "fused-a"]))


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(slots, st.integers(0, 2**128 - 1), max_size=40), st.dictionaries(slots, st.just(5), max_size=10))
def test_a_listing_is_a_dictionary(there: dict, more: dict) -> None:
    def made(table: dict) -> list[Record]:
        return [record(f"s-{s}.tar", view, member, checksum) for (s, view, member), checksum in table.items()]

    listing = Listing(table_of(made(there))).joined(made(more))
    expected = {r.slot: r for r in [*made(there), *made(more)]}
    assert {r.slot: r for r in listing} == expected
    assert len(listing) == len(expected)
    names = [f"s-{s}.tar" for s in range(8)]
    for member in ("seed-0", "seed-1", "fused-a", "stranger"):
        for view in range(4):
            held = [Slot(name, view, member) in expected for name in names]
            assert listing.holds(names, view, member).tolist() == held
            assert listing.holds(names, view, member, f"weights of {member}").tolist() == held
            assert not listing.holds(names, view, member, "other weights").any()
            assert [listing.find(Slot(name, view, member)) for name in names] == [
                expected.get(Slot(name, view, member)) for name in names
            ]
        mine = [r for r in expected.values() if r.member == member]
        assert listing.totals(member) == (len(mine), 7 * len(mine), sum(r.bytes for r in mine))
    gone = list(expected)[::2]
    assert {r.slot for r in listing.without(gone)} == set(expected) - set(gone)


def test_records_are_found_before_and_after_compaction(where: str) -> None:
    writer, early = Commits(open_place(where)), Commits(open_place(where))
    mine = [record(f"s-{n}.tar", checksum=n) for n in range(5)]
    for r in mine:
        assert writer.add(r) is None
    assert early.find(mine[3].slot) == mine[3]
    assert writer.compact(at_least=6) == 0
    assert writer.compact(at_least=5) == 5
    assert list(writer.place.list("commits")) == []
    late = Commits(open_place(where))
    for reader in (writer, early, late):
        assert [reader.find(r.slot) for r in mine] == mine
        assert reader.find(Slot("s-9.tar", 0, "seed-0")) is None
    assert writer.add(record("s-9.tar")) is None
    assert len(late.listing()) == 6
    assert writer.compact(at_least=1) == 1
    assert [path for path, _ in writer.place.list("log") if path.endswith("arrow")] == ["log/00000002.arrow"]
    assert list(early.listing()) == [*mine, record("s-9.tar")]


def test_a_slot_is_taken_once_even_across_a_compaction(where: str) -> None:
    one, other = Commits(open_place(where)), Commits(open_place(where))
    assert one.add(record(checksum=1)) is None
    assert other.add(record(checksum=2)) == record(checksum=1)
    one.compact(at_least=1)
    assert other.add(record(checksum=2)) == record(checksum=1)
    assert list(one.place.list("commits")) == []


def test_a_commit_that_raced_a_compaction_is_taken_back(tmp_path: Path, monkeypatch) -> None:
    one, other = Commits(Folder(tmp_path)), Commits(Folder(tmp_path))
    # the other looked before the first had committed and compacted
    one.add(record(checksum=1))
    one.compact(at_least=1)
    monkeypatch.setattr(other, "find", lambda slot, checkpoint=None: None)
    assert other.add(record(checksum=2)) == record(checksum=1)
    assert Commits(Folder(tmp_path)).find(record().slot) == record(checksum=1)


def test_of_two_that_compact_at_once_one_gives_up_and_nothing_is_lost(where: str, monkeypatch) -> None:
    one, other = Commits(open_place(where)), Commits(open_place(where))
    one.add(record("s-0.tar"))
    single = other._singles
    monkeypatch.setattr(other, "_singles", lambda: (single(), one.add(record("s-1.tar")), one.compact(1))[0])
    assert other.compact(at_least=1) == 0
    assert {r.shard for r in Commits(open_place(where)).listing()} == {"s-0.tar", "s-1.tar"}


def test_a_stale_compaction_deletes_nothing_that_is_not_in_the_log(where: str, monkeypatch) -> None:
    """One that slept through two generations and then makes a number that was free again."""
    slow, quick = Commits(open_place(where)), Commits(open_place(where))
    slow.add(record("s-0.tar"))
    real = slow._advance

    def late(listing: Listing) -> bool:
        for n in (1, 2):
            quick.add(record(f"s-{n}.tar"))
            quick.compact(at_least=1)
        quick.add(record("s-3.tar"))
        return real(listing)

    monkeypatch.setattr(slow, "_advance", late)
    slow.compact(at_least=1)
    assert {r.shard for r in Commits(open_place(where)).listing()} == {f"s-{n}.tar" for n in range(4)}


def test_retracted_slots_are_empty_wherever_their_records_lay(where: str) -> None:
    writer = Commits(open_place(where))
    for n in range(4):
        writer.add(record(f"s-{n}.tar"))
        if n == 1:
            writer.compact(at_least=1)
    stale = Commits(open_place(where))
    writer.retract([Slot(f"s-{n}.tar", 0, "seed-0") for n in (1, 2)])
    assert {r.shard for r in writer.listing()} == {"s-0.tar", "s-3.tar"}
    assert writer.find(Slot("s-1.tar", 0, "seed-0")) is None
    again = record("s-1.tar", checksum=9, checkpoint="trained anew")
    assert writer.add(again) is None
    assert stale.find(again.slot, "trained anew") == again


class Counting(Folder):
    """A folder that remembers what was listed."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.listed: list[str] = []

    def list(self, prefix: str):
        self.listed.append(prefix)
        return super().list(prefix)


def test_looking_up_and_committing_list_no_records(tmp_path: Path) -> None:
    writer = Commits(Folder(tmp_path))
    for n in range(20):
        writer.add(record(f"s-{n}.tar"))
    writer.compact(at_least=1)
    place = Counting(tmp_path)
    reader = Commits(place)
    for n in range(20):
        assert reader.find(Slot(f"s-{n}.tar", 0, "seed-0")) is not None
    assert set(place.listed) == {"log"}
    reader.find(Slot("s-99.tar", 0, "seed-0"))
    reader.add(record("s-99.tar"))
    assert set(place.listed) == {"log"}


def test_a_retracted_record_is_not_brought_back_by_a_compaction_under_way(where: str, monkeypatch) -> None:
    slow, quick = Commits(open_place(where)), Commits(open_place(where))
    for n in range(3):
        quick.add(record(f"s-{n}.tar"))
    single = slow._singles
    again = record("s-1.tar", checksum=7, checkpoint="trained anew")

    def late() -> list[Record]:
        found = single()
        quick.retract([Slot("s-0.tar", 0, "seed-0"), Slot("s-1.tar", 0, "seed-0")])
        quick.add(again)
        return found

    monkeypatch.setattr(slow, "_singles", late)
    assert slow.compact(at_least=1) == 0
    assert list(Commits(open_place(where)).listing()) == [again, record("s-2.tar")]


def test_a_stale_writer_retracts_as_well(where: str) -> None:
    stale, quick = Commits(open_place(where)), Commits(open_place(where))
    for n in range(3):
        quick.add(record(f"s-{n}.tar"))
        quick.compact(at_least=1)
    stale.retract([Slot("s-0.tar", 0, "seed-0")])
    assert {r.shard for r in Commits(open_place(where)).listing()} == {"s-1.tar", "s-2.tar"}


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_of_the_log_is_found(tmp_path_factory, place: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("log")
    Commits(Folder(folder)).add(record())
    Commits(Folder(folder)).compact(at_least=1)
    path = folder / "log" / "00000001.arrow"
    payload = bytearray(path.read_bytes())
    payload[place % len(payload)] ^= 1 << bit
    path.write_bytes(payload)
    with pytest.raises(
        DamagedLog, match=r"log/00000001.arrow: the commit log is damaged .* kdscale logits fsck --repair"
    ):
        Commits(Folder(folder))


def test_files_that_do_not_belong_there_do_not_matter(tmp_path: Path) -> None:
    writer = Commits(Folder(tmp_path))
    writer.add(record())
    writer.compact(at_least=1)
    for name in (".nfs0000123", ".DS_Store", "00000009.arrow.bak", "notes"):
        (tmp_path / "log" / name).write_text("x")
    assert Commits(Folder(tmp_path)).find(record().slot) == record()


def test_a_single_record_that_cannot_be_read_is_as_good_as_none_for_a_listing(tmp_path: Path) -> None:
    writer = Commits(Folder(tmp_path))
    for n in range(2):
        writer.add(record(f"s-{n}.tar"))
    (tmp_path / "commits/seed-0/view-000/s-0.json").write_text("{")
    assert [r.shard for r in writer.listing()] == ["s-1.tar"]
    with pytest.raises(UserError, match=r"s-0.json: not a commit record .* mend it with kdscale logits fsck --repair"):
        writer.find(Slot("s-0.tar", 0, "seed-0"))


def test_compaction_waits_until_it_pays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(commits, "LEAST", 3)
    writer = Commits(Folder(tmp_path))
    for n in range(2):
        writer.add(record(f"s-{n}.tar"))
    assert writer.compact() == 0
    writer.add(record("s-2.tar"))
    assert writer.compact() == 3

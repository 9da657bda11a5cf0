"""Who is started again after a failure, with whom, and what is kept of those that are given up."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import WorkerCrashedError

from kdscale.ensemble.replica import Failed, Member, PutBack
from kdscale.errors import NotFinite, UserError
from kdscale.files import write_json
from kdscale.pipeline.attempts import Attempts


class Bench:
    """Attempts over members of a folder, and the packs that are queued."""

    def __init__(self, folder: Path, *packs: tuple[int, ...], retries: int = 2):
        self.folder = folder
        self.queued: list[tuple[int, ...]] = []
        self.finished: dict[int, str] = {}
        self.members = {seed: Member(seed, folder / "teachers" / f"seed-{seed}", "f" * 64) for p in packs for seed in p}
        self.attempts = Attempts(
            lambda pack, first: self.queued.append(tuple(member.seed for member in pack)),
            self.finished.__setitem__,
            retries,
        )
        self.attempts.begin([[self.members[seed] for seed in pack] for pack in packs])

    def next(self, act: Callable[[list[Member]], None]) -> None:
        act([self.members[seed] for seed in self.queued.pop(0)])

    def crash(self) -> None:
        self.next(lambda pack: self.attempts.crashed(pack, WorkerCrashedError()))

    def raised(self) -> None:
        self.next(lambda pack: self.attempts.ended(pack, {m.seed: Failed.by(LookupError("a bug")) for m in pack}))

    def save(self, seed: int, step: int) -> None:
        write_json(self.members[seed].checkpoints.folder / "latest.json", {"step": step, "folder": "x"})

    def state(self, seed: int) -> dict:
        return json.loads((self.members[seed].folder / "status.json").read_text())

    def error(self, seed: int) -> Path:
        return self.members[seed].folder / "error.txt"


def test_a_member_is_given_up_after_its_retries_with_its_traceback(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,), (1,))
    assert bench.state(0)["state"] == "queued"
    for _ in range(3):
        assert not bench.error(0).exists()
        bench.raised()
        bench.queued.sort()
    assert bench.queued == [(1,)]
    assert bench.state(0)["state"] == "failed"
    assert bench.state(0)["error"] == "LookupError: a bug"
    assert "LookupError: a bug" in bench.error(0).read_text()
    assert str(bench.attempts.failure(tmp_path)) == (
        f"teacher seed-0 failed: LookupError: a bug; the traceback is in {bench.error(0)}"
    )


def test_starts_that_reach_a_checkpoint_do_not_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,), retries=1)
    for step in range(1, 6):
        bench.save(0, step)
        bench.crash()
        assert bench.queued == [(0,)]
    bench.crash()
    assert not bench.queued
    assert list(bench.attempts.given_up) == [0]


def test_a_loss_that_is_not_finite_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0, 1))
    nan = Failed.by(NotFinite("the loss is nan"))
    bench.next(lambda pack: bench.attempts.ended(pack, {0: "checksum", 1: nan}))
    assert bench.finished == {0: "checksum"}
    assert not bench.queued
    assert bench.state(1)["error"] == "the loss is nan"


def test_a_pack_goes_on_as_it_was_after_a_crash_and_apart_before_its_last_retry(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0, 1))
    bench.crash()
    assert bench.queued == [(0, 1)]
    bench.crash()
    assert bench.queued == [(0,), (1,)]


def test_after_an_exception_each_of_a_pack_goes_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0, 1, 2))
    bench.raised()
    assert bench.queued == [(0,), (1,), (2,)]


def test_a_success_removes_what_an_earlier_command_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,), retries=0)
    bench.crash()
    assert bench.error(0).exists()
    assert bench.state(0)["state"] == "failed"
    again = Bench(tmp_path, (0,), retries=0)
    assert again.state(0)["state"] == "queued"
    assert "error" not in again.state(0)
    again.next(lambda pack: again.attempts.ended(pack, {0: "checksum"}))
    assert not again.error(0).exists()
    assert again.attempts.failure(tmp_path) is None


def test_several_are_named_in_one_sentence(tmp_path: Path) -> None:
    bench = Bench(tmp_path, *[(seed,) for seed in range(12)], retries=0)
    for _ in range(12):
        bench.crash()
    said = str(bench.attempts.failure(tmp_path))
    assert said.startswith("12 teachers failed (seed-0, seed-1")
    assert "seed-9 and 2 more), the first: " in said
    assert said.endswith(f"{tmp_path}/teachers/seed-*/error.txt")


def test_a_mistake_in_the_data_ends_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0,))
    with pytest.raises(UserError, match="torn"):
        bench.next(lambda pack: bench.attempts.crashed(pack, UserError("the tar is torn")))


def test_a_divided_pack_goes_on_in_halves_and_what_is_finished_stays_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (0, 1, 2, 3), retries=0)
    results = {0: "a" * 64, **{seed: PutBack() for seed in (1, 2, 3)}}
    bench.next(lambda pack: bench.attempts.ended(pack, results))
    assert bench.queued == [(1, 2), (3,)]
    assert bench.finished == {0: "a" * 64}
    assert [[member.seed for member in pack] for pack in bench.attempts.out] == [[1, 2], [3]]
    bench.next(lambda pack: bench.attempts.ended(pack, {1: "b" * 64, 2: "c" * 64}))
    assert [[member.seed for member in pack] for pack in bench.attempts.out] == [[3]]
    assert not bench.attempts.given_up

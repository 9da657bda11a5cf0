"""When a pack that runs is asked to divide."""

from pathlib import Path

import pytest

from kdscale.ensemble.replica import DIVIDE, Member
from kdscale.files import write_json
from kdscale.pipeline import sharing
from kdscale.pipeline.sharing import Sharing


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVERY", 0.0)


def pack(folder: Path, *seeds: int, left: float = 100.0) -> list[Member]:
    members = [Member(seed, folder / f"seed-{seed}", "f" * 64) for seed in seeds]
    for member in members:
        state = {"state": "running", "steps": 1000, "step": 0, "rate": 1000 / left}
        write_json(member.folder / "status.json", state)
    return members


def asked(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{DIVIDE}"))


def test_the_largest_pack_is_asked_once_for_each_free_place(tmp_path: Path) -> None:
    packs = [pack(tmp_path, 0, 1), pack(tmp_path, 2, 3, 4), pack(tmp_path, 5)]
    places = 3
    look = Sharing(lambda: places, lambda: packs)
    look.look()
    assert asked(tmp_path) == []
    places = 4
    look.look()
    look.look()
    assert asked(tmp_path) == ["seed-2"]
    places = 5
    look.look()
    assert asked(tmp_path) == ["seed-0", "seed-2"]


def test_what_is_nearly_done_or_has_not_begun_is_left_alone(tmp_path: Path) -> None:
    late, queued = pack(tmp_path, 0, 1, left=30.0), pack(tmp_path, 2, 3)
    write_json(queued[0].folder / "status.json", {"state": "queued"})
    look = Sharing(lambda: 8, lambda: [late, queued])
    look.look()
    assert asked(tmp_path) == []

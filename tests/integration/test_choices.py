"""What a student is given of its ensemble: some members, weighted, fused on disk, as they come in, from a bucket."""

import json
import shutil

import pytest
from support.place import STUDENT, Place, sentence, write_recipe
from support.s3 import s3_server

pytestmark = pytest.mark.slow


def results(place: Place) -> dict:
    return json.loads((place.run / "results.json").read_text())["splits"]["test"]


def weights(place: Place, job: str = "student-seed-0") -> str:
    return json.loads((place.run / "students" / job / "done.json").read_text())["weights"]


def reads(place: Place, job: str = "student-seed-0") -> dict:
    return json.loads((place.run / "students" / job / "reads.json").read_text())


def test_members_are_left_out_and_weighted_without_new_logits(copy, finished) -> None:
    _, err = copy.kdscale("run", "tiny.yaml", "fusion.without=[1]", "fusion.weights={2: 3.0}", "student.control=false")
    assert "teachers: done before" in err
    assert "logits: done before" in err
    assert [(part["member"], part["weight"]) for part in reads(copy)["parts"]] == [("seed-0", 1.0), ("seed-2", 3.0)]
    assert results(copy)["ensemble"] != results(finished)["ensemble"]
    assert len(results(copy)["by_size"]) == 2
    _, err = copy.kdscale("run", "tiny.yaml", "fusion.without=[7]", code=2)
    assert "fusion.without: 7 is no member's seed; the teachers' are 0 to 2" in sentence(err)


@pytest.mark.soak
def test_a_student_reads_the_fused_set_and_learns_the_same(copy, finished) -> None:
    out, _ = copy.kdscale("logits", "fuse", "runs/tiny")
    name = out.split(":")[0]
    assert name.startswith("fused-")
    assert "3 members in" in out
    seen = json.loads(copy.kdscale("logits", "info", "runs/tiny", "--json")[0])
    assert seen["fused"][name]["members"] == ["seed-0", "seed-1", "seed-2"]
    assert seen["missing"] == []
    shutil.rmtree(copy.run / "students" / "student-seed-0")
    copy.kdscale("run", "tiny.yaml", "student.control=false")
    assert [part["member"] for part in reads(copy)["parts"]] == [name]
    assert abs(results(copy)["student"]["nll"] - results(finished)["student"]["nll"]) < 1e-2
    block = next((copy.run / "logits" / "blocks" / name).rglob("*.arrow"))
    before = block.read_bytes()
    block.write_bytes(before[:-1])
    assert f"{name}/view-000" in copy.kdscale("logits", "fsck", "runs/tiny", code=1)[0]
    assert "1 faults, mended" in copy.kdscale("logits", "fsck", "runs/tiny", "--repair")[0]
    assert block.read_bytes() == before
    assert "0 files" in copy.kdscale("logits", "prune", "runs/tiny", "--dry-run")[0]
    _, err = copy.kdscale("logits", "fuse", "runs/tiny", "--members", "0,9", code=2)
    assert "seed 9 is no finished member" in sentence(err)


def test_a_student_follows_its_members_as_they_come_and_a_restart_sees_the_same(tmp_path) -> None:
    student = {"workers": 1, "quorum": 1, "epochs": 4, "control": False}
    place = write_recipe(tmp_path, {"student": student, "teachers": {"epochs": 160}, "cluster": {"cpus": 2}})
    place.kdscale("run", "tiny.yaml")
    assert reads(place)["live"]
    decisions = {
        path.parts[-3]: json.loads(path.read_text())
        for path in (place.run / "students/student-seed-0/members").rglob("*.json")
    }
    assert len(decisions["epoch-0000"]) < 3
    assert sorted(decisions["epoch-0003"]) == ["seed-0", "seed-1", "seed-2"]
    rows = [json.loads(line) for line in (place.run / "students/student-seed-0/metrics.jsonl").read_text().splitlines()]
    members = [row["members"] for row in rows]
    assert members[0] < members[-1] == 3
    first = weights(place)
    for name in ("done.json", "weights.safetensors"):
        (place.run / "students" / "student-seed-0" / name).unlink()
    (place.run / "results.json").unlink()
    _, err = place.kdscale("run", "tiny.yaml")
    assert "teachers: done before" in err
    assert weights(place) == first  # of the members that were there then, not of those that are there now


def test_a_live_student_that_leaves_no_room_for_members_is_refused(tmp_path) -> None:
    place = write_recipe(tmp_path, {"cluster": {"cpus": 2}})
    for asked in ([], ["--dry-run"]):
        _, err = place.kdscale("run", "tiny.yaml", "student.quorum=1", "student.workers=2", *asked, code=2)
        said = "student.quorum: a student that follows the members as they come needs room beside one of them"
        assert said in sentence(err)


@pytest.mark.soak
def test_a_store_in_a_bucket_gives_the_same_student(finished, tmp_path, monkeypatch) -> None:
    place = write_recipe(tmp_path)
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        place.kdscale(*STUDENT, "logits.path=s3://bucket/stores")
        assert not (place.run / "logits").exists()
        assert weights(place) == weights(finished)
        seen = json.loads(place.kdscale("logits", "info", "runs/tiny", "--json")[0])
        assert seen["store"].startswith("s3://bucket/stores/tiny-")
        assert seen["missing"] == []
        assert place.kdscale("logits", "fsck", "runs/tiny")[0].startswith("0 faults")
        _, err = place.kdscale("logits", "tiny.yaml", "logits.path=s3://bucket/stores")
        assert "logits: done before" in err

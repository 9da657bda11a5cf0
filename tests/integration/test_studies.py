"""Studies as a user starts them, shrunk: a whole one, what is kept of it, and what is refused."""

import json
import shutil

import pytest
from support.place import sentence

SMALL = [
    *(
        "teachers.count=2",
        "teachers.epochs=4",
        "student.epochs=4",
        "joint.networks=2",
        "data.test=300",
        "data.validation=100",
    ),
    *("teachers.checkpoint_epochs=4", "student.checkpoint_epochs=4"),
]


@pytest.mark.slow
def test_a_study_ends_in_tables_a_page_and_results_and_does_nothing_twice(place) -> None:
    made = place()
    command = ("study", "mysteries-ntk", "--quick", "--seeds", "1", *SMALL)
    out, err = made.kdscale(*command, "--json")
    seen = json.loads(out.splitlines()[-1])
    assert {"figures", "machine", "seconds"} <= seen.keys()
    claims = [figure for figure in seen["figures"] if figure["bound"]]
    assert {type(claim["holds"]) for claim in claims} == {bool}
    assert len(claims) == 3
    by_name = {figure["name"]: figure for figure in seen["figures"]}
    assert by_name["ensemble, tangent, width 3"]["paper"] == 70.54
    assert by_name["single, tangent, width 3"]["seeds"] == 2
    assert "teachers.count=2" in seen["notes"][0]
    folder = made.folder / "runs" / "studies" / "mysteries-ntk-quick"
    assert json.loads((folder / "results.json").read_text())["recipe"]["teachers"]["epochs"] == 4
    assert "mysteries-ntk: tangent-3" in err
    out, err = made.kdscale(*command)
    assert "mysteries-ntk: tangent-3" not in err
    assert "holds" in out
    assert "the paper" in out
    assert "<svg" in (folder / "index.html").read_text()


@pytest.mark.slow
def test_finished_members_are_taken_as_they_are(copy) -> None:
    weights = copy.run / "students/student-seed-0/weights.safetensors"
    changes = [
        "teachers.count=1",
        f"teachers.weights=['{weights}']",
        "teachers.model.dropout=0",
        "teachers.model.hidden=[16]",
    ]
    _, err = copy.kdscale("run", "tiny.yaml", *changes, "student.control=false", "--out", "runs/next")
    assert "teachers: done before" in err
    before = json.loads((copy.run / "results.json").read_text())["splits"]["test"]["student"]["accuracy"]
    after = json.loads((copy.folder / "runs/next/results.json").read_text())["splits"]["test"]
    assert after["teachers"][0]["accuracy"] == before
    other = copy.run / "students/control-seed-0/weights.safetensors"
    shutil.copy(other, weights)  # other weights at the same place
    _, err = copy.kdscale("run", "tiny.yaml", *changes, "student.control=false", "--out", "runs/next")
    assert "logits: done before" not in err
    control = json.loads((copy.run / "results.json").read_text())["splits"]["test"]["control"]["accuracy"]
    again = json.loads((copy.folder / "runs/next/results.json").read_text())["splits"]["test"]
    assert again["teachers"][0]["accuracy"] == control != before
    weights.unlink()  # what was taken is kept
    _, err = copy.kdscale("run", "tiny.yaml", *changes, "student.control=false", "--out", "runs/next")
    assert "student: done before" in err
    changes[1:] = [f"teachers.weights=['{other}']", "teachers.model.dropout=0", "teachers.model.hidden=[17]"]
    _, err = copy.kdscale("run", "tiny.yaml", *changes, "--out", "runs/wrong", code=2)
    assert "does not fit teachers.model" in sentence(err)


def test_mistakes_are_a_sentence(place) -> None:
    made = place()
    _, err = made.kdscale("study", "mysteries-nkt", code=2)
    assert sentence(err) == "kdscale: kdscale study: there is no study mysteries-nkt; did you mean mysteries-ntk?"
    _, err = made.kdscale("study", "mysteries-ntk", "teachers.epoch=3", code=2)
    assert "unknown field teachers.epoch; did you mean epochs?" in sentence(err)
    _, err = made.kdscale("study", "mysteries-ntk", "--out", ".", code=2)
    assert "not the directory of a study and not empty" in sentence(err)
    out, _ = made.kdscale("study", "list")
    assert "mysteries-ntk" in out
    out, _ = made.kdscale("study", "list", "--json")
    assert {"name", "claim", "source", "quick", "full"} == json.loads(out)[0].keys()
    assert not (made.folder / "runs").exists()

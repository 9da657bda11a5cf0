"""The command line: quick to answer, and one sentence for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERBS = ["run", "study", "data", "teachers", "logits", "student", "evaluate", "report", "status", "logs", "cancel"]
HEAVY = ["torch", "ray", "deepspeed", "wandb", "pyarrow", "sklearn", "matplotlib", "webdataset", "pydantic", "numpy"]


def kdscale(*arguments: str, cwd: Path | None = None, debug: bool = False) -> subprocess.CompletedProcess[str]:
    program = "from launcher.cli import main; main()"
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    environment.update({"KDSCALE_DEBUG": "1"} if debug else {})
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("verb", [*([v] for v in VERBS), ["data", "import"], ["submit", "slurm"]], ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: list[str]) -> None:
    done = kdscale(*verb, "--help")
    assert done.returncode == 0
    assert "Example: kdscale " + verb[0] in done.stdout


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom launcher.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert all(verb in done.stdout for verb in VERBS)


def test_a_mistake_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    done = kdscale("run", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "kdscale: none.yaml: there is no such recipe; give the path of a YAML file, such as configs/quickstart.yaml\n"
    )
    assert "Traceback" in kdscale("run", "none.yaml", cwd=tmp_path, debug=True).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distil",), "No such command 'distil'"),
        (("runn",), "Did you mean 'run'?"),
        (("run",), "Missing argument 'RECIPE'; see "),
        (("run", "a.yaml", "--outt", "x"), "No such option: --outt"),
        (("study", "list", "--seeds", "0"), "Invalid value for '--seeds'"),
        (("submit", "slurm", "a.yaml", "--stage", "nope"), "'nope' is not one of 'run', 'data'"),
        (("submit", "ray", "a.yaml"), "Missing option '--address'"),
    ],
)
def test_words_that_no_verb_takes_are_a_sentence_too(words: tuple[str, ...], said: str) -> None:
    done = kdscale(*words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdscale: ")
    assert said in line
    assert "Value error" not in line


@pytest.mark.parametrize("group", [(), ("data",), ("logits",), ("wandb",), ("submit",)])
def test_a_group_alone_shows_its_help(group: tuple[str, ...]) -> None:
    done = kdscale(*group)
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


def test_version() -> None:
    assert kdscale("--version").stdout.startswith("kdscale 0.")


def test_importing_by_itself(tmp_path: Path) -> None:
    done = kdscale("data", "import", "--from", "digits", "-", str(tmp_path / "out"), "shard_size=500", "test=0.5")
    assert done.returncode == 0, done.stderr
    assert "10 classes" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == [
        "test-000000.tar",
        "test-000001.tar",
        "train-000000.tar",
        "train-000001.tar",
        "validation-000000.tar",
    ]
    for arguments, sentence in (
        (["--from", "digitz", "-", "x"], "digits"),
        (["--from", "idx", "/nowhere", "x"], "/nowhere"),
        (["--from", "digits", "-", "x", "shards_size=3"], "unknown field shards_size; did you mean shard_size?"),
        (["--from", "digits", "-", "x", "shard_size"], "not of the form field=value"),
    ):
        refused = kdscale("data", "import", *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert len(refused.stderr.splitlines()) == 1, refused.stderr


def test_a_misspelt_verb_is_not_taken_for_a_recipe(tmp_path: Path) -> None:
    done = kdscale("logits", "fck", "runs/x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "kdscale: kdscale logits has no verb fck; did you mean fsck?\n"


def test_the_plan_refuses_what_the_run_would(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(90, 5)), y=np.arange(90) % 3)
    data = {"source": "npz", "path": "a.npz"}
    tree = {
        "name": "a",
        "data": data,
        "teachers": {"model": "mlp", "views": {"jitter": 1}},
        "student": {"model": "mlp"},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    done = kdscale("run", "a.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "set teachers.views={}" in done.stderr
    planned = kdscale("run", "a.yaml", "--dry-run", "--json", "teachers.views={}", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    seconds = {step["stage"]: step["seconds"] for step in json.loads(planned.stdout)["steps"]}
    assert seconds["teachers"] >= 8  # starting up counts
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_fusion_rule_is_found_before_anything_runs(tmp_path: Path) -> None:
    tree = {"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    done = kdscale("evaluate", "a.yaml", "--fusion", "plurality,bordas", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "kdscale: --fusion: there is no rule bordas; did you mean borda?\n"
    assert not (tmp_path / "runs").exists()


TINY = {"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}}
NEEDS_A_RUN = [
    *(("status",), ("logs",), ("cancel",), ("export",), ("compare", "elsewhere"), ("wandb", "sync")),
    *(("logits", verb) for verb in ("info", "fsck", "fuse", "prune")),
]


@pytest.mark.parametrize("verb", NEEDS_A_RUN, ids=" ".join)
def test_what_is_no_run_is_called_so(verb: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        done = kdscale(*verb, folder, cwd=tmp_path)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "not a run directory (it has no recipe.yaml); give one, such as runs/quickstart" in line


@pytest.mark.parametrize("verb", ["logs", "cancel"])
def test_a_run_without_jobs_has_none_to_look_at(verb: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    done = kdscale(verb, str(tmp_path))
    assert done.returncode == 2
    assert "no job of a cluster has worked on this run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_store_is_found_by_the_recipe_too_and_exported_as_parquet_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}})
    )
    assert kdscale("logits", "info", "a.yaml", cwd=tmp_path).stderr.startswith("kdscale: runs/a: not a run directory")
    done = kdscale("logits", "export", "runs/a", "out.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "kdscale: out.csv: the logits are written as Parquet alone; name the file out.parquet\n"


def test_a_run_directory_of_another_recipe(tmp_path: Path) -> None:
    tree = {"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    assert kdscale("data", "a.yaml", cwd=tmp_path).returncode == 0
    done = kdscale("data", "a.yaml", "seed=3", "teachers.epochs=4", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds a run of a different recipe (seed: 0 -> 3; teachers.epochs: 10.0 -> 4.0)" in done.stderr
    fresh = kdscale("data", "a.yaml", "seed=3", "--fresh", cwd=tmp_path)
    assert fresh.returncode == 0
    assert "set aside as runs/a.1" in fresh.stderr
    assert (tmp_path / "runs/a.1/data/manifest.json").exists()


def test_the_planned_store_is_the_one_in_the_docs() -> None:
    done = kdscale("logits", "plan", "--samples", "100000000", "--classes", "15000", "--members", "10")
    page = (Path(__file__).parents[2] / "docs" / "jft.md").read_text()
    for line in done.stdout.splitlines():
        assert f"    {line}\n" in page
    needs = json.loads(
        kdscale("logits", "plan", "--samples", "1000", "--classes", "10", "--members", "2", "--json").stdout
    )["needs"]
    assert needs[0]["files"] == 2
    assert needs[0]["total"] >= 2 * 1000 * 10 * 2

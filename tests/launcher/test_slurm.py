"""Scripts for sbatch: what is in them, what is refused, and what `status`, `logs` and `cancel` make of a job.

Slurm itself is played by small scripts here; tests/integration/test_slurm.py has a real one.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kdscale.errors import UserError
from launcher.slurm import ready
from launcher.slurm.options import Options, check, passed_on, seconds
from launcher.slurm.script import render

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "configs" / "quickstart.yaml")
PLAIN = Options(recipe="my recipe.yaml", run="/shared/runs/it's", nodes=2)


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize("name", ready.SCRIPTS)
def test_the_scripts_that_are_ready_to_edit_are_what_is_rendered(name: str) -> None:
    assert (ROOT / "slurm" / name).read_text() == render(ready.SCRIPTS[name]), "run python -m launcher.slurm.ready"


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        replace(PLAIN, container="apptainer", image="/images/kd scale.sif", mounts=("/data",), gpus_per_node=8),
        replace(PLAIN, container="pyxis", image="docker://x/kdscale:1", mounts=("/data:/data", "/scratch")),
        replace(PLAIN, modules=("cuda/12",), setup=("source venv/bin/activate",), env=("A=b c",), interface="ib0"),
        replace(PLAIN, on_lost_node="requeue", requeue=False, overrides=("a.b=[1, 2]", "c.d='x'")),
    ],
    ids=["plain", "apptainer", "pyxis", "settings", "requeue"],
)
def test_every_script_is_bash(options: Options, tmp_path: Path) -> None:
    script = tmp_path / "run.sbatch"
    script.write_text(render(options))
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", ["run.sbatch", "chain.sh"])
def test_what_is_in_the_repository_is_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "slurm" / script)], check=True)


def test_options_become_lines_for_sbatch() -> None:
    options = replace(
        PLAIN,
        gpus_per_node=8,
        time="1-0",
        partition="gpu",
        account="me",
        sbatch=("--qos=high", "-C a100", "--comment=a b"),
    )
    found = directives(render(options))
    for line in ("--nodes=2", "--gpus-per-node=8", "--time=1-0", "--partition=gpu", "--account=me", "--qos=high"):
        assert line in found
    assert "-C a100" in found
    assert "--comment='a b'" in found
    assert "--signal=B:USR1@120" in found
    assert "--requeue" in found
    assert "--no-kill" in found


def test_a_lost_node_may_requeue_the_job_instead() -> None:
    script = render(replace(PLAIN, on_lost_node="requeue", requeue=False))
    assert "--no-kill" not in directives(script)
    assert "--no-requeue" in directives(script)
    assert "LOSS=(--kill-on-bad-exit=1)" in script


def test_settings_reach_the_script() -> None:
    script = render(
        replace(
            PLAIN, modules=("cuda/12",), setup=("ulimit -n 65536",), env=("NCCL_DEBUG=INFO", "A=b c"), interface="ib0"
        )
    )
    for line in ("module load cuda/12", "ulimit -n 65536", "export NCCL_DEBUG=INFO", "export A='b c'"):
        assert line in script.splitlines()
    assert "export INTERFACE=ib0 " in script
    assert "NCCL_SOCKET_IFNAME=$INTERFACE GLOO_SOCKET_IFNAME=$INTERFACE" in script
    assert "RECIPE='my recipe.yaml'" in script


@pytest.mark.parametrize(
    ("time", "length"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("24:00:00", 86400),
        ("2-0", 172800),
        ("1-2:30", 95400),
        ("1-0:0:5", 86405),
        ("UNLIMITED", None),
    ],
)
def test_times_are_slurms(time: str, length: int | None) -> None:
    assert seconds(time) == length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "1 day"}, "--time 1 day: is no time of Slurm's"),
        ({"time": "24h"}, "is no time of Slurm's"),
        ({"time": "1:2:3:4"}, "is no time of Slurm's"),
        ({"time": "2"}, "--time 2 leaves nothing beside --grace 120"),
        ({"nodes": 0}, "--nodes 0"),
        ({"grace": 5}, "--grace 5"),
        ({"env": ("1=2",)}, "--env 1=2: is not of the form NAME=VALUE"),
        ({"name": "a\nb"}, "a line break"),
    ],
)
def test_what_slurm_would_misread_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(replace(PLAIN, **changes))


def test_other_options_are_passed_on() -> None:
    words = ["--qos", "high", "--exclusive", "-C", "a100", "--comment=x=y", "--mem", "0"]
    assert passed_on(words) == ("--qos=high", "--exclusive", "-C a100", "--comment=x=y", "--mem=0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--array=0-3"], "is set by kdscale's script"),
        (["-o", "x.log"], "is set by kdscale's script"),
        (["student.alpha=1"], "come last, after --"),
        (["--exclusive", "student.alpha=1"], "come last, after --"),
    ],
)
def test_what_cannot_be_passed_on_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        passed_on(words)


class Site:
    """A login node whose Slurm is played by scripts."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()

    def command(self, name: str, does: str) -> None:
        (self.bin / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {self.folder}/calls\n{does}\n')
        (self.bin / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def kdscale(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from launcher.cli import main; main()", *arguments],
            cwd=self.folder,
            text=True,
            capture_output=True,
            check=False,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "COLUMNS": "120", "PYTHONPATH": str(ROOT)},
        )

    def refused(self, *arguments: str) -> str:
        done = self.kdscale(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("kdscale: ")
        assert len(done.stderr.splitlines()) == 1
        return done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_submission_is_kept_with_the_run(site: Site) -> None:
    site.command("sbatch", "echo '17;cluster'")
    done = site.kdscale("submit", "slurm", QUICK, "-N", "2", "--qos", "high", "--", "student.temperature=3")
    assert done.returncode == 0, done.stderr
    run = site.folder / "runs" / "quickstart"
    folder = run / "jobs" / "slurm-17"
    assert site.calls == [f"sbatch --parsable {run}/jobs/run.sbatch"]
    assert "temperature: 3" in (folder / "recipe.yaml").read_text()
    assert (folder / "run.sbatch").read_text() == (run / "jobs" / "run.sbatch").read_text()
    assert "--qos=high" in directives((folder / "run.sbatch").read_text())
    assert "job 17: runs/quickstart/jobs/slurm-17/run.sbatch" in done.stdout
    for verb in ("logs runs/quickstart --follow", "status runs/quickstart", "cancel runs/quickstart"):
        assert f"kdscale {verb}" in done.stdout


def test_options_of_every_form_are_told_apart(site: Site) -> None:
    words = ["-c", "4", "-C", "a100", "--mem=0", "--exclusive", "-pgpu", "--mail-type", "END", "-t", "1-0"]
    done = site.kdscale(
        "submit", "slurm", QUICK, "--dry-run", *words, "--", "student.alpha=0.5", "student.hard_weight=0"
    )
    found = directives(done.stdout)
    for line in ("-c 4", "-C a100", "--mem=0", "--exclusive", "--partition=gpu", "--mail-type=END", "--time=1-0"):
        assert line in found
    assert "give RECIPE first" in site.refused("submit", "slurm", "--qos", "high", QUICK)


def test_a_dry_run_needs_no_slurm_and_leaves_nothing(site: Site) -> None:
    done = site.kdscale("submit", "slurm", QUICK, "--nodes", "4", "--time", "24:00:00", "--dry-run")
    assert done.returncode == 0
    assert "#SBATCH --nodes=4" in done.stdout
    assert sorted(path.name for path in site.folder.iterdir()) == ["bin"]


def test_no_sbatch_is_a_sentence(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from launcher.cli import main; main()", "submit", "slurm", QUICK],
        cwd=site.folder,
        text=True,
        capture_output=True,
        check=False,
        env={"PATH": str(site.bin), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("kdscale: there is no sbatch on the PATH; give this command on a login node")
    assert len(done.stderr.splitlines()) == 1


REFUSAL = "echo 'sbatch: error: {0}' >&2; echo 'sbatch: error: Batch job submission failed: {1}' >&2; exit 1"


def test_what_sbatch_refuses_is_a_sentence(site: Site) -> None:
    site.command("sbatch", REFUSAL.format("invalid partition specified: nope", "Invalid partition name specified"))
    site.command("sinfo", "printf 'main\\ngpu\\n'")
    said = site.refused("submit", "slurm", QUICK, "--partition", "nope")
    assert "invalid partition specified: nope" in said
    assert "--partition takes main, gpu" in said
    site.command("sbatch", "echo \"sbatch: unrecognized option '--quos=high'\" >&2; exit 1")
    assert "unrecognized option '--quos=high'" in site.refused("submit", "slurm", QUICK, "--quos=high")
    lost = "sbatch: fatal: Could not establish a configuration source"
    site.command(
        "sbatch", f"echo 'sbatch: error: resolve_ctls_from_dns_srv: Unknown host' >&2; echo '{lost}' >&2; exit 1"
    )
    assert "this machine belongs to no Slurm cluster" in site.refused("submit", "slurm", QUICK)
    site.command("sbatch", "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    done = site.kdscale("submit", "slurm", QUICK)
    assert done.returncode == 1
    assert "Slurm's controller does not answer" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "soon"], "--time soon: is no time of Slurm's"),
        (["--apptainer", "a", "--pyxis", "b"], "leave one out"),
        (["--mount", "/data"], "is for a container"),
        (["--", "cluster.address=1.2.3.4:5"], "the job starts a Ray of its own"),
        (["--", "student.temprature=3"], "temprature"),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(site: Site, arguments: list[str], message: str) -> None:
    site.command("sbatch", "echo 17")
    assert message in site.refused("submit", "slurm", QUICK, *arguments)
    assert not (site.folder / "calls").exists()
    assert not (site.folder / "runs").exists()


def submitted(site: Site, state: str = "RUNNING") -> Path:
    site.command("sbatch", "echo 17")
    site.command("squeue", f"echo '17|{state}|node[1-2]|0:31|10:00|None'")
    assert site.kdscale("submit", "slurm", QUICK).returncode == 0
    return site.folder / "runs" / "quickstart"


def test_status_shows_the_job(site: Site) -> None:
    run = submitted(site)
    (run / "jobs" / "slurm-17" / "times").write_text("1.5 0 begun\n2.5 0 requeue\n3.5 1 begun\n")
    shown = site.kdscale("status", "runs/quickstart")
    assert "job 17            running    on node[1-2], 0:31 of 10:00, 1 restart" in shown.stdout
    (job,) = json.loads(site.kdscale("status", "runs/quickstart", "--json").stdout)["slurm"]
    assert (job["job"], job["state"], job["live"], job["starts"]) == ("17", "RUNNING", True, 2)


def test_the_end_of_a_job_outlives_slurms_memory_of_it(site: Site) -> None:
    run = submitted(site)
    site.command("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    (run / "jobs" / "slurm-17" / "ended").write_text("1\n")
    assert "job 17            failed     exit code 1, see" in site.kdscale("status", "runs/quickstart").stdout


def test_logs_follow_a_job_to_its_end(site: Site) -> None:
    run = submitted(site, "COMPLETED")
    (run / "jobs" / "slurm-17.log").write_text("step 1\nstep 2\n")
    assert site.kdscale("logs", "runs/quickstart").stdout == "step 1\nstep 2\n"
    assert site.kdscale("logs", "runs/quickstart", "--follow").stdout == "step 1\nstep 2\n"
    assert "has no job 99; its jobs are 17" in site.refused("logs", "runs/quickstart", "--job", "99")


def test_cancelling_saves_first(site: Site) -> None:
    submitted(site)
    site.command("scontrol", "true")
    site.command("scancel", "true")
    assert "saves what is under way" in site.kdscale("cancel", "runs/quickstart").stdout
    assert site.calls[-2:] == ["scontrol update JobId=17 Requeue=0", "scancel --batch --signal=USR1 17"]
    site.kdscale("cancel", "runs/quickstart", "--now")
    assert site.calls[-1] == "scancel 17"
    submitted(site, "PENDING")
    assert "job 17: cancelled" in site.kdscale("cancel", "runs/quickstart").stdout
    assert site.calls[-1] == "scancel 17"
    submitted(site, "FAILED")
    assert "none of its jobs (17) waits or runs" in site.refused("cancel", "runs/quickstart")


def test_a_run_without_jobs_has_none_to_look_after(site: Site) -> None:
    (site.folder / "runs").mkdir()
    assert "runs: not a run directory" in site.refused("logs", "runs")
    tree = {"name": "a", "teachers": {"model": "mlp"}, "student": {"model": "mlp"}}
    (site.folder / "runs" / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert "no job of a cluster has worked on this run" in site.refused("logs", "runs")
    assert "no job of a cluster has worked on this run" in site.refused("cancel", "runs")

"""A real Slurm of virtual nodes on this machine: each with its own network, processes, host name and /tmp."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.place import Place

SCRIPTS = Path(__file__).parent / "slurm"
ROOT = Path(__file__).parents[2]
LOCK = Path("/tmp/kdscale-slurm-tests.lock")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "ip", "nsenter", "unshare")


def wait_for(condition: Callable[[], Any], seconds: float = 180, what: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing within {seconds:.0f} s; {what()}"
        time.sleep(0.1)
    return found


class Slurm:
    """The cluster; its commands work while it is up."""

    def __init__(self, folder: Path, nodes: int):
        self.folder, self.nodes = folder, [f"node{i + 1}" for i in range(nodes)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SLURM_CONF": f"{self.folder}/etc/slurm.conf",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            # a lost node shows in three seconds
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }

    def call(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout

    def on(self, node: str, *command: str) -> str:
        """Run a command inside a node."""
        return self.call("node-exec", node, *command)

    def state(self, job: str) -> str:
        shown = self.call("scontrol", "-o", "show", "job", job)
        return next(word.partition("=")[2] for word in shown.split() if word.startswith("JobState="))

    def leftovers(self, node: str) -> list[str]:
        """What of a job is left on a node: its processes, and what it wrote to /tmp."""
        shared = {self.folder.name, "ray", *(Path(path).parts[2] for path in shared_paths())}
        files = [name for name in self.on(node, "ls", "-A", "/tmp").split() if name not in shared]
        lines = self.on(node, "ps", "-eo", "pid,args").splitlines()
        return files + [line for line in lines if any(sign in line for sign in ("ray", "kdscale", "raylet", "gcs_"))]

    def kill(self, node: str) -> None:
        """A power failure."""
        psutil.Process(int((self.folder / "nodes" / node / "pid1").read_text())).kill()


def shared_paths() -> list[str]:
    """What lies in /tmp and must be on all nodes, as a shared filesystem would be."""
    base = os.environ.get("KDSCALE_TEST_SHARED", "")
    return [path for path in (base, str(ROOT), sys.prefix) if path.startswith("/tmp/")]


def why_not() -> str | None:
    """Why there can be no Slurm here."""
    if os.getuid():
        return "virtual Slurm nodes need root"
    missing = [
        name for name in PROGRAMS if subprocess.run(["which", name], capture_output=True, check=False).returncode
    ]
    if missing:
        return f"no Slurm here ({', '.join(missing)}); tests/support/slurm/install.sh installs Debian's"
    probe = "ip link add kdsbrx type bridge && ip link del kdsbrx"
    if subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "sh", "-c", probe], capture_output=True, check=False
    ).returncode:
        return "no namespaces for virtual Slurm nodes here"
    return None


@contextmanager
def slurm(nodes: int, shared: Path, cpus: int = 4) -> Iterator[Slurm]:
    """Bring up a cluster whose nodes share a folder; one at a time on a machine."""
    if reason := why_not():
        pytest.skip(reason)
    with open(LOCK, "a") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(f"/tmp/kds-slurm-{os.getpid()}")
        patch.setenv("KDSCALE_TEST_SHARED", str(shared))
        settings = {
            "SLURM_UP_DIR": str(folder),
            "SLURM_UP_PRIVATE_TMP": "1",
            "SLURM_UP_GPUS": "1",
            "SLURM_UP_CPUS": str(cpus),
            "SLURM_UP_SHARED": " ".join(shared_paths()),
        }
        made = Slurm(folder, nodes)
        environment = {**os.environ, **settings}
        try:
            up = subprocess.run(
                [str(SCRIPTS / "up.sh"), str(nodes)], env=environment, text=True, capture_output=True, check=False
            )
            assert up.returncode == 0, up.stderr
            for name, value in made.environment.items():
                patch.setenv(name, value)
            yield made
        finally:
            subprocess.run([str(SCRIPTS / "down.sh")], env=environment, capture_output=True, check=False)


class Submitted:
    """A run that was submitted."""

    def __init__(self, cluster: Slurm, place: Place, *arguments: str):
        self.cluster, self.place = cluster, place
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        words = ("submit", "slurm", "tiny.yaml", "--time=10", *arguments[:cut], "--json", *arguments[cut:])
        out, _ = place.kdscale(*words)
        self.id: str = json.loads(out.splitlines()[-1])["job"]
        self.has_time = False
        self.run = place.run
        self.folder = self.run / "jobs" / f"slurm-{self.id}"

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def requeued(self) -> None:
        """Wait until a time limit has sent the job back once, and give it time enough from then on.

        Only once: a job that has ended since takes no more time.
        """
        wait_for(lambda: self.marks("requeue"), what=lambda: self.log)
        if not self.has_time:
            self.cluster.call("scontrol", "update", f"JobId={self.id}", "TimeLimit=10")
            self.has_time = True

    def marks(self, what: str) -> list[float]:
        """When each start came that far."""
        times = self.folder / "times"
        lines = [line.split() for line in times.read_text().splitlines()] if times.exists() else []
        return [float(words[0]) for words in lines if words[2] == what]

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Of members and students, by their folder's name."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.run.glob("*/*/status.json")}

    @property
    def over(self) -> bool:
        return (self.folder / "ended").exists()

    def ended(self, seconds: float = 240) -> int:
        """Wait for the end; its exit code."""
        wait_for((self.folder / "ended").exists, seconds, lambda: self.log)
        return int((self.folder / "ended").read_text())

"""A real Ray of two nodes on this machine, with its dashboard and token authentication, started as an operator would.

The second node has mounts of its own: Ray's folder, which Ray would otherwise clear on both when it does on one, and one more
that stands for what is local to a machine.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class RayCluster:
    address: str
    """Of the dashboard."""
    token: Path
    private: Path
    """A folder that each node has for itself."""


def why_not() -> str | None:
    """Why there can be no such cluster here."""
    if os.getuid() or shutil.which("unshare") is None:
        return "a Ray of two nodes with folders of their own needs root and unshare"
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "probe", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "no mount namespaces here for a Ray of two nodes"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ray_cluster(folder: Path, cpus: int = 1) -> Iterator[RayCluster]:
    """Bring up a head and a node, and end both whatever happens."""
    token, private = folder / "token", folder / "private"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    private.mkdir()
    gcs, dashboard = free_port(), free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    common = f"--num-cpus {cpus} --object-store-memory {100 << 20} --block"
    with ExitStack() as stack:
        at = stack.enter_context(tempfile.TemporaryDirectory(prefix="kds-", dir="/tmp", ignore_cleanup_errors=True))
        head = f"--head --port {gcs} --dashboard-host 127.0.0.1 --dashboard-port {dashboard} --temp-dir {at}"
        stack.enter_context(_started(_start(head, common), environment, folder / "head.log"))
        _joined(folder / "head.log")
        mounts = f'mount -t tmpfs private {private} && mount -t tmpfs session {at} && exec "$@"'
        own = ["unshare", "--mount", "sh", "-c", mounts, "sh"]
        join = [*own, *_start(f"--address 127.0.0.1:{gcs}", common)]
        stack.enter_context(_started(join, environment, folder / "node.log"))
        _joined(folder / "node.log")
        yield RayCluster(f"http://127.0.0.1:{dashboard}", token, private)


def _start(*options: str) -> list[str]:
    """`ray start`; each node's agent, which takes the jobs, listens at a port of its own, as several share this machine."""
    ports = f"--dashboard-agent-listen-port {free_port()} --dashboard-agent-grpc-port {free_port()}"
    return [*RAY, "start", *" ".join((*options, ports)).split()]


@contextmanager
def _started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        every = (
            [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            if process.poll() is None
            else []
        )
        for one in every:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(every, timeout=10)


def _joined(log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)

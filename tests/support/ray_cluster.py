"""A real Ray of two nodes on this machine, with its dashboard and token authentication, started as an operator would.

The second node has mounts of its own: Ray's folder, which Ray would otherwise clear on both when it does on one, and one more
that stands for what is local to a machine.
"""

import os
import random
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

TRIES = 3
"""To start the head."""
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
    """A port that nothing listens at, below those that outgoing connections get."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


@contextmanager
def ray_cluster(folder: Path, cpus: int = 1) -> Iterator[RayCluster]:
    """Bring up a head and a node, and end both whatever happens."""
    token, private = folder / "token", folder / "private"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    private.mkdir()
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
        for attempt in range(TRIES):
            gcs, dashboard = free_port(), free_port()
            head = f"--head --port {gcs} --dashboard-host 127.0.0.1 --dashboard-port {dashboard} --temp-dir {at}"
            started = _started(_start(head, common), environment, folder / "head.log")
            process = started.__enter__()
            if _joined(process, folder / "head.log", last=attempt == TRIES - 1):
                stack.push(started)
                break
            started.__exit__(None, None, None)
        mounts = f'mount -t tmpfs private {private} && mount -t tmpfs session {at} && exec "$@"'
        own = ["unshare", "--mount", "sh", "-c", mounts, "sh"]
        join = [*own, *_start(f"--address 127.0.0.1:{gcs}", common)]
        process = stack.enter_context(_started(join, environment, folder / "node.log"))
        _joined(process, folder / "node.log", last=True)
        yield RayCluster(f"http://127.0.0.1:{dashboard}", token, private)


def _start(*options: str) -> list[str]:
    """`ray start`; each node's agent, which takes the jobs, listens at a port of its own, as several share this machine."""
    ports = f"--dashboard-agent-listen-port {free_port()} --dashboard-agent-grpc-port {free_port()}"
    return [*RAY, "start", *" ".join((*options, ports)).split()]


@contextmanager
def _started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        own = [one for one in psutil.process_iter() if _session(one.pid) == process.pid]
        for one in own:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        psutil.wait_procs(own, timeout=10)


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def _joined(process: subprocess.Popen[bytes], log: Path, last: bool, seconds: float = 180) -> bool:
    """Wait for a node to be up; False if it ended instead, as where its ports were taken meanwhile."""
    deadline = time.monotonic() + seconds
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None and not last:
            return False
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return True

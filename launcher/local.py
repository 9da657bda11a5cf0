"""Ray on this machine: joined where one runs already, else started for the length of a command.

A Ray that is started here listens on loopback, has no dashboard and ends with the command, also when that is killed.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdscale import mirror
from kdscale.errors import RunFailure, UserError
from kdscale.recipe import Cluster
from launcher import shared

WORKER_ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


OBJECT_STORE = 256 << 20
"""Bytes; nothing large passes through Ray, and by default it would claim a third of the memory."""


IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""In the environment of a job that was submitted to Ray."""
NODES = "KDSCALE_NODES"
"""In the environment: how many nodes a cluster that is just being started will have."""
PATIENCE = 300.0
"""Seconds for all of them to join."""


@contextmanager
def connection(
    cluster: Cluster, stopped: Callable[[], bool] = lambda: False, run: Path | None = None
) -> Iterator[None]:
    """Hold a connection to the Ray of `cluster.address` or RAY_ADDRESS, or to a new one of this machine.

    Args:
        stopped: whether to give up waiting for the nodes of a cluster that is being started.
        run: the run directory, which all nodes of a cluster must reach.

    Raises:
        UserError: no Ray answers at the address, or a node does not see the run directory.
        RunFailure: KDSCALE_NODES says how many nodes there will be, and not all of them came.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()})
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    _hush()
    handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which would end the command at once
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address is None:
        os.environ["PYTHONPATH"] = _python_path()  # workers inherit it
        try:
            ray.init(
                address="local",
                num_cpus=cluster.cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _node_ip_address="127.0.0.1",
                _temp_dir=_short_folder(),
                **quiet,
            )
        except Exception as error:  # what Ray raises where a daemon of its own does not come up, after half a minute
            raise RunFailure(
                f"Ray did not start on this machine ({_first_line(error)}); try again when it has less to do, "
                f"or see Ray's logs in {_short_folder()}/session_latest/logs"
            ) from error
    else:
        _knock(address)
        try:
            # a job of Ray's brings an environment of its own, with the user's modules in it
            path = {} if IN_JOB in os.environ else {"runtime_env": {"env_vars": {"PYTHONPATH": _python_path()}}}
            ray.init(address=address, **path, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"cluster.address: no Ray answers at {address} ({_first_line(error)}); start one there, or leave the address out"
            ) from None
    signal.signal(signal.SIGTERM, handler)
    try:
        if address is not None and os.environ.get(NODES, "").isdigit():
            _gather(int(os.environ[NODES]), stopped)
        if address is not None and run is not None and not mirror.in_use():
            shared.check(run)
        yield
    finally:
        sys.stdout.flush()
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


def _gather(nodes: int, stopped: Callable[[], bool]) -> None:
    """Wait until so many nodes are there; what they have together is told on stderr."""
    import ray

    from kdscale.cluster import capacity

    deadline = time.monotonic() + PATIENCE
    while (here := sum(node["Alive"] for node in ray.nodes())) < nodes and not stopped():
        if time.monotonic() > deadline:
            raise RunFailure(
                f"{here} of {nodes} nodes joined Ray within {PATIENCE:.0f} s; see what the others say in the logs of Ray's step"
            )
        time.sleep(0.1)
    whole = capacity()
    print(f"Ray: {here} node{'s' if here > 1 else ''}, {whole.cpus} CPUs, {whole.gpus:g} GPUs", file=sys.stderr)


def _knock(address: str) -> None:
    """Find out at once whether anything listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"cluster.address: no Ray answers at {address} ({error.strerror or error}); start one there, or leave the address out"
        ) from None


def _hush() -> None:
    """Keep standard output for what the command itself says.

    Whatever `log_to_driver` says, Ray prints there what its daemons report: of each lost node twenty lines of their log.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix: None


def _python_path() -> str:
    """The user's own modules are found from where the command was given."""
    return os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))


def _short_folder() -> str:
    """Ray's own folder: short, since the names of its sockets must stay below 107 bytes."""
    base = tempfile.gettempdir()
    return os.path.join(base if len(base) < 30 else "/tmp", f"kdscale-ray-{os.getuid()}")

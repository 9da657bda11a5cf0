"""Ray's Job API, and what it says turned into sentences."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kdscale.errors import RunFailure, UserError

LIVE = {"PENDING", "RUNNING"}
PATIENCE = 60.0
"""Seconds for a cluster that was just started to take jobs."""
GRACE = 120
"""Seconds that a stopped job has for saving before Ray kills it."""


@dataclass(frozen=True)
class Place:
    """A Ray that takes jobs."""

    address: str
    """Of its dashboard: http://HEAD:8265."""
    token: Path | None = None
    """File with its token."""


@dataclass(frozen=True)
class Seen:
    """A job as Ray shows it."""

    state: str
    message: str
    started: float | None
    ended: float | None

    @property
    def live(self) -> bool:
        return self.state in LIVE


def check(place: Place) -> Place:
    """Raises:
    UserError: the address is none of a dashboard, or the token's file is not there.
    """
    scheme, separator, rest = place.address.partition("://")
    if not separator or scheme not in ("http", "https") or not rest:
        raise UserError(
            f"--address {place.address}: is no address of Ray's dashboard; give http://HEAD:8265 (ray:// and HOST:6379 are other doors)"
        )
    if place.token is not None and not place.token.is_file():
        raise UserError(f"--token {place.token}: there is no such file; give the one that the cluster was started with")
    return place


def submit(place: Place, job: str, entrypoint: str, runtime_env: dict[str, Any], about: dict[str, str]) -> None:
    """Submit a job.

    Raises:
        UserError: no Ray answers at the address, or it does not take the token.
        RunFailure: Ray refuses the job.
    """
    deadline = time.monotonic() + PATIENCE
    with _client(place) as client:
        while True:
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, metadata=about)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def look(place: Place, job: str) -> Seen | None:
    """How a job stands; None if Ray does not know it (any more), or does not answer."""
    try:
        with _client(place) as client:
            info = client.get_job_info(job)
    except (UserError, RunFailure):
        return None
    started, ended = (None if at is None else at / 1000 for at in (info.start_time, info.end_time))
    return Seen(str(info.status.value), str(info.message or ""), started, ended)


def stop(place: Place, job: str) -> None:
    """Ask a job to save and end."""
    with _client(place) as client:
        client.stop_job(job)


def logs(place: Place, job: str) -> str:
    """What a job has printed so far."""
    with _client(place) as client:
        return str(client.get_job_logs(job))


def follow(place: Place, job: str, out: TextIO) -> None:
    """Print what a job prints until it has come to its end."""

    async def copy(client: Any) -> None:
        async for lines in client.tail_job_logs(job):
            out.write(lines)
            out.flush()

    with _client(place) as client:
        asyncio.run(copy(client))


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    """A client of Ray's, its troubles told as ours."""
    with _token(place):
        from ray.exceptions import AuthenticationError  # Ray reads how it is to authenticate when it is imported
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield JobSubmissionClient(place.address)
        except AuthenticationError as error:
            raise UserError(
                f"the Ray at {place.address} does not take this token ({_first(error)}); give its file with --token, "
                "or set RAY_AUTH_TOKEN"
            ) from None
        except (ConnectionError, OSError) as error:
            raise UserError(
                f"no Ray answers at {place.address} ({_first(error)}); give the address of its dashboard, such as "
                "http://HEAD:8265"
            ) from None
        except (RuntimeError, ValueError) as error:
            if "Version check returned 404" in str(error):
                raise UserError(
                    f"--address {place.address}: something else than Ray's dashboard answers there; give http://HEAD:8265"
                ) from None
            raise RunFailure(f"the Ray at {place.address} refuses: {_first(error)}") from None


@contextmanager
def _token(place: Place) -> Iterator[None]:
    """Ray reads its token from the environment."""
    names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place.token)} if place.token else {}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300]

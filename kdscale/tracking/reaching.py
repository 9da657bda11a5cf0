"""Whether anything listens where the W&B server should be: found out at once, since its client would try for minutes."""

import socket
import urllib.request
from urllib.parse import urlsplit

from kdscale.errors import RunFailure

PATIENCE = 10.0
"""Seconds for a connection."""


def knock(base_url: str | None) -> None:
    """Connect to the server once; behind a proxy nothing is found out.

    Args:
        base_url: of the server; by default what W&B's client is set to.

    Raises:
        RunFailure: nothing answers there.
    """
    url = base_url or _default()
    where = urlsplit(url)
    host = where.hostname or ""
    if not host or (where.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)):
        return
    try:
        port = where.port or (80 if where.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunFailure(
            f"no W&B answers at {url} ({why}); what was logged is kept: give the same command from a machine that reaches "
            "the server, or another --base-url"
        ) from None


def _default() -> str:
    import wandb

    return str(wandb.setup(wandb.Settings(silent=True)).settings.base_url)

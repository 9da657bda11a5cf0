"""A range of bytes of a file, on a disk or over HTTP."""

import time
import urllib.error
import urllib.request

from kdscale.errors import UserError

TRIES = 4
TIMEOUT = 60.0
"""Seconds that a server may be silent."""


def ranged(url: str) -> bool:
    """Whether ranges of it can be read: local files and HTTP; other URLs are read from their beginning."""
    return url.startswith(("http://", "https://")) or ("://" not in url and not url.startswith("pipe:"))


def read(url: str, first: int, last: int) -> bytes:
    """Bytes [first, last).

    Raises:
        UserError: it cannot be fetched, or ends before.
    """
    try:
        data = _fetch(url, first, last) if "://" in url else _from_disk(url, first, last)
    except FileNotFoundError:
        raise UserError(f"{url}: there is no such shard; restore it or import the dataset again") from None
    except OSError as error:
        raise UserError(f"{url}: cannot be fetched ({error}); see that it can be reached") from None
    if len(data) < last - first:
        raise UserError(
            f"{url}: the tar is truncated or damaged (it ends before byte {last}); restore it or import the dataset again"
        )
    return data


def _from_disk(path: str, first: int, last: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(first)
        return file.read(last - first)


def _fetch(url: str, first: int, last: int) -> bytes:
    """By a range request, tried again while the server is out of reach or out of breath."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={first}-{last - 1}"})
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if answer.status != 206:  # it knows no ranges, and sends all of it
                    skipped = 0
                    while skipped < first and (block := answer.read(min(1 << 20, first - skipped))):
                        skipped += len(block)
                data: bytes = answer.read(last - first)
                if len(data) == last - first or not left:
                    return data
        except urllib.error.HTTPError as error:
            if error.code < 500 or not left:
                raise
        except OSError:
            if not left:
                raise
        time.sleep(0.5 * 2 ** (TRIES - 1 - left))
    raise AssertionError("the last try returns or raises")

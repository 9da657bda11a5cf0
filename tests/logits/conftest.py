"""Places for stores: a folder, and a bucket of an S3 server on loopback."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.s3 import s3_server

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path: Path, monkeypatch) -> str:
    """Where a new store may lie."""
    if request.param == "folder":
        return str(tmp_path / "store")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/store-{next(NUMBERS)}"

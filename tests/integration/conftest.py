"""Fixtures of whole runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.place import Place, write_recipe


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Place]:
    """A fresh working directory with the tiny recipe, sections changed as asked."""

    def make(**changes: dict[str, object]) -> Place:
        return write_recipe(tmp_path, changes)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny recipe, run to its end once a session."""
    made = write_recipe(tmp_path_factory.mktemp("finished"))
    made.kdscale("run", "tiny.yaml")
    return made


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Place:
    """The finished run, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Place(tmp_path / "copy")

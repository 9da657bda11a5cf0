"""Whole runs, as a user starts them: the command in a process of its own, on a real local Ray."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

KDSCALE = [sys.executable, "-c", "from launcher.cli import main; main()"]

TINY = {
    "name": "tiny",
    "data": {"source": "digits", "test": 0.2, "validation": 0.1, "shard_size": 256, "window": 64},
    "teachers": {
        "count": 3,
        "model": {"name": "mlp", "hidden": [32], "dropout": 0.2},
        "epochs": 8,
        "batch_size": 32,
        "lr": 0.005,
    },
    "student": {
        "model": {"name": "mlp", "hidden": [16]},
        "epochs": 8,
        "batch_size": 32,
        "lr": 0.005,
        "workers": 1,
        "deepspeed": {"zero_optimization": {"stage": 1}},
    },
}


@dataclass(frozen=True)
class Place:
    """A working directory with a recipe in it."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "tiny"

    def weights(self, pattern: str = "*/*") -> dict[str, bytes]:
        """Of every finished member and student, by stage and job."""
        found = self.run.glob(f"{pattern}/weights.safetensors")
        return {f"{path.parent.parent.name}/{path.parent.name}": path.read_bytes() for path in found}

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "COLUMNS": "120"}
        return subprocess.Popen(
            [*KDSCALE, *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )

    def kdscale(self, *arguments: str, code: int | None = 0) -> tuple[str, str]:
        """Run a command to its end; its output and errors."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert code is None or process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err


def write_recipe(folder: Path, changes: dict[str, dict[str, object]] | None = None) -> Place:
    tree = {section: dict(value) if isinstance(value, dict) else value for section, value in TINY.items()}
    for section, fields in (changes or {}).items():
        tree.setdefault(section, {}).update(fields)  # type: ignore[attr-defined]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return Place(folder)


STUDENT = ("student", "tiny.yaml", "student.control=false")
"""All that is needed to have members and student, and no more."""


def same_students(one: Place, other: Place) -> bool:
    """Whether both have the same members and the same student, bit by bit."""
    found = {name: value for name, value in one.weights().items() if "control" not in name}
    return len(found) == 4 and found == {name: other.weights().get(name) for name in found}


def differences(found: object, expected: object, where: str = "") -> list[str]:
    """In what two trees of numbers differ, a line each: a whole results.json is too long to be compared by eye."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = {**found, **expected}
        pairs = [(found.get(name, "nothing"), expected.get(name, "nothing"), f"{where}.{name}") for name in names]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = [(*both, f"{where}[{number}]") for number, both in enumerate(zip(found, expected, strict=True))]
    else:
        return [] if found == expected else [f"{where.lstrip('.')}: {found!r} where {expected!r} is expected"]
    return [line for pair in pairs for line in differences(*pair)]


def sentence(err: str) -> str:
    """The one line that a user's mistake or a failure leaves on stderr."""
    lines: Sequence[str] = [line for line in err.splitlines() if line.startswith("kdscale: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]

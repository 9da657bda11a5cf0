"""metrics.jsonl: the record of a job that needs no server and no library, and survives any kill.

Each job (a member, a student, a control) appends to a file of its own, so that no two processes ever share one; the
pipeline merges them into RUN/metrics.jsonl. A resumed job first drops the rows that it is about to write again:
after a SIGKILL and a resume every step is there once.
"""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdscale import files


class MetricsLog:
    """Appends rows ``{**constant_fields, "step": ..., **values}`` to a job's own file, each flushed at once.

    Opening drops rows beyond `resume_step`, the last step that the job's checkpoint holds, and a torn last line.
    With `resume_step` 0 the job begins from nothing and so does its file: what a start logs at step 0 would
    otherwise be there twice.
    """

    def __init__(self, path: Path, resume_step: int = 0, **constant_fields: Any) -> None:
        self._constant_fields = constant_fields
        path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(path, resume_step)
        self._file = path.open("a", encoding="utf-8", newline="\n")

    def log(self, step: int, **values: Any) -> None:
        """Append one row; numbers of NumPy and PyTorch become plain ones, and NaN and infinities null.

        Raises:
            TypeError: a value that JSON cannot hold.
            OSError: the disk is full.
        """
        self._file.write(_line({**self._constant_fields, "step": int(step), **values}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; none if there is no file yet.

    A torn last line is left out. So is any other line that is no JSON object, such as what a lost node leaves:
    a damaged record must not stop the run that it describes.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    rows = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def merge(run: Path, sources: list[Path], target: Path) -> None:
    """Concatenate job files, in the given order, into one file that is there whole or not at all.

    Relative paths are taken from the run directory. A job that has logged nothing has no file and adds no row.
    """
    with files.written_aside(run / target) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as merged:
        for source in sources:
            merged.writelines(_line(row) for row in read(run / source))


def _truncate(path: Path, resume_step: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read(path) if resume_step > 0 and _step(row) <= resume_step]
    text = "".join(map(_line, kept))
    if path.read_bytes() != text.encode():
        files.write_text(path, text)


def _step(row: dict[str, Any]) -> float:
    step = row.get("step")
    return step if isinstance(step, int) else math.inf


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_plain(row), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy and PyTorch, scalars and arrays
        return _plain(value.tolist())
    return value

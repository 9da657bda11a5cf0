"""What metrics are called in W&B, what each is drawn against, and the file that names all of them.

metrics.jsonl has short fields. W&B groups panels by what stands before the slash and tells runs apart by nothing else in a
panel, so there the kind of model comes first: a teacher's ``loss`` is ``teacher/loss``.
"""

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("metrics.yaml")
"""configs/wandb/metrics.yaml, and its copy in an installed package."""
STEP = "train/step"
"""The x-axis of what is trained: W&B's own step counts rows and differs after a resume."""
STEPS = {
    STEP: "*",
    "ensemble/members": "ensemble/*",
    "calibration/confidence": "calibration/*",
    "specialists/covering": "specialists/*",
    "store/blocks": "store/*",
}
"""Every x-axis, and the metrics that are drawn against it; of two that match the longer counts."""
_BRACES = re.compile(r"\{([^{}]*)\}")


def of(kind: str, field: str) -> str:
    """The name in W&B of a field of a job's metrics.jsonl; one with a slash is such a name already."""
    return field if "/" in field else f"{kind}/{field}"


def load(path: Path = FILE) -> dict[str, Any]:
    """The file of metrics, with its names written out."""
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["metrics"] = {name: text for pattern, text in tree["metrics"].items() for name in expand(pattern)}
    return tree


def expand(pattern: str) -> list[str]:
    """``{a,b}/{c,d}`` -> a/c, a/d, b/c, b/d."""
    parts = [part.split(",") if i % 2 else [part] for i, part in enumerate(_BRACES.split(pattern))]
    return ["".join(chosen) for chosen in itertools.product(*parts)]

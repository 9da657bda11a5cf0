"""Golden numbers: what recipes gave before a change, and how closely a change must give it again.

Nothing of kdscale is imported. A recipe is run by the `kdscale` command in a new folder, and what the run leaves there is
read: `metrics.jsonl` and `weights.safetensors` of each job, and `results.json`. So the numbers outlive any renaming inside;
where a field of a recipe or a file of a run is renamed, the recipes and this file follow, and the numbers stay.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS = 50
"""Losses that are kept of each job, from its first step on."""
TOLERANCE = 1e-5
"""Of losses, relative or absolute, on another kind of machine."""
SAMPLES = 4
"""Of the test split that a trained model may take otherwise there; two were, with other instructions of the same CPU."""
NLL_TOLERANCE = 0.01
"""Of the negative log-likelihood of a trained model there."""
MEASURES = ("accuracy", "errors", "n", "nll")
SETTINGS = {
    "KDSCALE_KERNELS": "0",  # losses by torch, whether there is a C compiler or not
    "CUDA_VISIBLE_DEVICES": "",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "RAY_AUTH_MODE": "disabled",
}
"""Environment of the runs: the same instructions on as many CPUs as possible."""
PACKAGES = ("torch", "numpy", "deepspeed", "scikit-learn", "scipy", "pillow")

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One run whose numbers are kept."""

    name: str
    recipe: Path
    command: str
    """The command of `kdscale` that does all that is needed and no more."""
    changes: tuple[str, ...] = ()
    """Fields of the recipe that are set otherwise."""
    jobs: bool = True
    """Whether losses and weights of each job are kept, or the results of the evaluation."""

    @property
    def file(self) -> Path:
        return HERE / "numbers" / f"{self.name}.json"


CASES = (
    Case("alone", HERE / "recipes/alone.yaml", "specialists"),
    Case("packed", HERE / "recipes/packed.yaml", "student"),
    Case("quickstart", ROOT / "configs/quickstart.yaml", "evaluate", ("student.seeds=[0]",), jobs=False),
)


def kdscale(folder: Path, *arguments: str) -> Path:
    """Run a command in a folder to its end; the folder of its run.

    Raises:
        AssertionError: it failed; with what it printed.
    """
    command = [str(Path(sys.executable).with_name("kdscale")), *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **SETTINGS}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    (run,) = (folder / "runs").iterdir()
    return run


def measured(case: Case, folder: Path) -> Numbers:
    """The numbers of a case, run anew in an empty folder."""
    run = kdscale(folder, case.command, str(case.recipe), *case.changes)
    return jobs(run) if case.jobs else models(run)


def jobs(run: Path) -> Numbers:
    """Losses and weights of everything that was trained, by the job's folder in the run."""
    found = {}
    for path in sorted(run.rglob("weights.safetensors")):
        if (path.parent / "metrics.jsonl").exists():
            found[path.parent.relative_to(run).as_posix()] = {"sha256": digest(path), "loss": losses(path.parent)}
    return found


def losses(job: Path) -> list[float]:
    """The loss of each of the first steps."""
    rows = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["loss"] for row in rows if "loss" in row}
    return [found[step] for step in range(1, STEPS + 1)]


def digest(path: Path) -> str:
    """Of the tensors' types, shapes and bytes in an order of their own: their names and the file's header may change."""
    tensors = load_file(path).values()
    return hashlib.sha256(b"".join(sorted(map(_tensor_bytes, tensors)))).hexdigest()


def _tensor_bytes(tensor: np.ndarray) -> bytes:
    return f"{tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes()


def models(run: Path) -> Numbers:
    """The measures of every model on the test split, a student and a control of each seed."""
    test = json.loads((run / "results.json").read_text())["splits"]["test"]
    found = {}
    for kind in ("teachers", "ensemble", "student", "control"):
        several = test[kind] if isinstance(test[kind], list) else test[kind].get("runs", [test[kind]])
        for one in several:
            name = f"{kind}/seed-{one['seed']}" if "seed" in one else kind
            found[name] = {measure: one[measure] for measure in MEASURES}
    return found


def machine() -> dict[str, Any]:
    """What the bits of a result depend on beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = cpu.get("flags", "").split()
    return {
        "cpu": " ".join(cpu.get(key, "") for key in ("vendor_id", "cpu family", "model", "model name")),
        "flags": sorted(flag for flag in flags if flag.startswith(("sse", "avx", "fma", "amx"))),
        "architecture": platform.machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "settings": SETTINGS,
    }


def differences(found: Numbers, kept: Numbers, exact: bool) -> list[str]:
    """In what two runs' numbers differ more than they may, a line each."""
    if found.keys() != kept.keys():
        return [f"found {sorted(found)} where {sorted(kept)} is kept"]
    return [line for name in kept for line in _differ(name, found[name], kept[name], exact)]


def _differ(name: str, found: Numbers, kept: Numbers, exact: bool) -> list[str]:
    lines = []
    for measure, before in kept.items():
        now = found[measure]
        if exact and now != before:
            step = _first(now, before) if isinstance(before, list) else ""
            lines.append(f"{name}: {measure}{step or f' {now} where {before} is kept'}")
        elif not exact and not _near(measure, now, before, kept):
            lines.append(f"{name}: {measure} is further from what is kept than it may be: {now}, {before}")
    return lines


def _first(now: list[float], before: list[float]) -> str:
    step = next(i for i, pair in enumerate(zip(now, before, strict=True)) if pair[0] != pair[1])
    return f" of step {step + 1}: {now[step]!r} where {before[step]!r} is kept"


def _near(measure: str, now: Any, before: Any, kept: Numbers) -> bool:
    if measure == "loss":
        pairs = zip(now, before, strict=True)
        return all(math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for pair in pairs)
    if measure == "nll":
        return abs(now - before) <= NLL_TOLERANCE
    if measure == "accuracy":
        return abs(now - before) * kept["n"] < SAMPLES + 0.5
    return measure == "sha256" or abs(now - before) <= (SAMPLES if measure == "errors" else 0)

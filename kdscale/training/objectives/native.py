"""The gradient of `gradient` in C, for CPUs: a row is read and written while it is in the cache, and nothing is called in between.

The source is compiled by the machine's own C compiler when it is first needed, in about a second, and kept for the next process
under ~/.cache/kdscale (or XDG_CACHE_HOME), apart for each kind of processor. Where there is no compiler `gradient` goes on in torch,
which is also what the C is tested against. Forward KL on float32 logits is all it knows.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kdscale.data.columns import Columns
from kdscale.files import written_aside

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = [
    "-O3",
    "-march=native",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-std=c99",
    "-fPIC",
    "-shared",
]
"""What vectorises sums, and not -ffast-math: that would give up NaN, and flush the whole process's subnormal numbers to zero when
the library is loaded."""
AT_ONCE = 1 << 21
"""Logits below which a second thread is not worth waking: torch's own still spin for a while after a matrix product."""
_FIELDS = (
    *(
        (name, ctypes.c_void_p if name not in ("stride", "classes") else ctypes.c_int64)
        for name in ("z", "stride", "g", "classes")
    ),
    *((name, ctypes.c_void_p) for name in ("ids", "p", "tail", "weight")),
    *((name, ctypes.c_int64) for name in ("groups", "named")),
    *((name, ctypes.c_void_p) for name in ("y", "other", "share")),
    *((name, ctypes.c_float) for name in ("inverse", "factor", "hard", "smoothing")),
)


class _Work(ctypes.Structure):
    _fields_ = _FIELDS


_Sums = ctypes.c_double * 2


def serves(logits: Tensor, targets: Columns) -> bool:
    """Whether these are logits and targets that the library takes, and the library is there."""
    plain = (
        logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.dim() == 2 and logits.stride(1) == 1
    )
    return plain and logits.numel() > 0 and "logits" not in targets and _library() is not None


def losses(
    logits: Tensor,
    targets: Columns,
    labels: tuple[Tensor, Tensor | None, Tensor | None] | None,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, soft, hard, gradient): the weighted sum of both terms, their means without weights, and the gradient of the sum, (B, C).

    Args:
        labels: (B,) class numbers, and where samples are mixed those of the second ones and the first ones' shares.

    Raises:
        IndexError: a class number that is none, which would write outside of the gradient.
    """
    library = _library()
    assert library is not None, "ask `serves` first"
    rows, classes = logits.shape
    gradient = torch.empty(rows, classes)
    columns = {
        name: targets[name].contiguous() if name == "ids" else targets[name].float().contiguous()
        for name in ("ids", "p", "tail", "weight")
        if name in targets
    }
    chosen: list[Tensor | None] = [None, None, None]
    if labels is not None and hard_weight:
        own, other, share = labels
        chosen = [own.contiguous(), other, share]
        if other is not None and share is not None:
            chosen[1:] = [other.contiguous(), share.float().contiguous()]
    groups, named = columns["ids"].shape[1:] if "ids" in columns else (0, 0)
    work = _Work(
        logits.data_ptr(), logits.stride(0), gradient.data_ptr(), classes,
        *(_address(columns.get(name)) for name in ("ids", "p", "tail", "weight")),
        groups, named, *map(_address, chosen),
        1 / temperature, soft_weight * temperature / rows, hard_weight / rows, smoothing,
    )  # fmt: skip
    threads = min(torch.get_num_threads(), 1 + rows * classes // AT_ONCE)
    step = -(-rows // threads)

    def work_on(start: int) -> tuple[int, float, float]:
        sums = _Sums()
        bad = library.soft_targets(ctypes.byref(work), start, min(rows, start + step), sums)
        return bad, sums[0], sums[1]

    parts = [work_on(0)] if threads == 1 else list(_threads(threads).map(work_on, range(0, rows, step)))
    bad = sum(part[0] for part in parts)
    if bad:
        raise IndexError(f"{bad} of {rows} rows name a class that is not one of {classes}")
    soft = sum(part[1] for part in parts) / rows * temperature**2
    hard = sum(part[2] for part in parts) / rows
    loss = soft * soft_weight + hard * hard_weight
    return torch.tensor(loss), torch.tensor(soft), torch.tensor(hard), gradient


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "kdscale-native")


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError):
        return None
    library.soft_targets.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, _Sums]
    library.soft_targets.restype = ctypes.c_int64
    return library


def _built() -> Path:
    """The library, compiled if it is not yet there.

    Raises:
        OSError: no compiler, or nowhere to put the library.
        subprocess.SubprocessError: the compiler refuses.
    """
    source = SOURCE.read_bytes()
    name = hashlib.sha256(b"\0".join([source, " ".join(FLAGS).encode(), _processor()])).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdscale" / f"soft-targets-{name}.so"
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as temporary:
        command = [compiler, *FLAGS, "-x", "c", str(SOURCE), "-o", str(temporary), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def _processor() -> bytes:
    """What -march=native may depend on: home directories are shared by nodes of different kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {flags}".encode()

"""A group of gloo ranks for tests: one spawn, in which a module's function does all there is to do.

What each rank returns comes back as JSON, so that a test says what it expects and the ranks only report.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def spawn(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returned on each rank."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ranks, Path(folder), function, arguments), nprocs=ranks)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def join(rank: int, ranks: int, store: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), ranks), rank=rank, world_size=ranks)


def _rank(rank: int, ranks: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    join(rank, ranks, folder / "store")
    result = function(rank, *arguments)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()

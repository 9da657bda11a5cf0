"""Ranks: joining a process group, whoever started the processes."""

import datetime
import os

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # missing in torch's stubs

LIMIT = datetime.timedelta(minutes=10)
"""A peer that is silent for longer is taken for dead. One that is killed shows at once."""


def open_rendezvous(host: str, ranks: int) -> TCPStore:
    """Rank 0's store, at a free port of its own."""
    return TCPStore(host, 0, ranks, is_master=True, wait_for_workers=False, timeout=LIMIT)


def join(
    rank: int, ranks: int, address: tuple[str, int], store: TCPStore | None, gpu: bool, patience: float = 0.0
) -> None:
    """Become one of `ranks`: over NCCL where each has a GPU of its own, else over gloo.

    Args:
        patience: seconds that a rank may wait for data while its peers wait for it, on top of the limit.
    """
    limit = LIMIT + datetime.timedelta(seconds=patience)
    host, port = address
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR=host, MASTER_PORT=str(port))
    dist.distributed_c10d.default_pg_timeout = limit  # ZeRO's own groups take it from here
    store = store or TCPStore(host, port, ranks, is_master=False, timeout=limit)
    backend = "nccl" if gpu and torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=limit)

"""Ranks: joining a process group, whoever started the processes."""

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Found:
    """A rank as torchrun, the deepspeed launcher or srun started it."""

    rank: int
    ranks: int
    local: int
    """Among the ranks of its node, which is also the number of its GPU."""
    host: str
    """Of rank 0."""
    port: int


def find(environment: Mapping[str, str]) -> Found | None:
    """What a launcher says in the environment of each process it starts; None if none did.

    torchrun and deepspeed set RANK and its like; srun's ranks meet on the first node of the step, at a port that
    follows from the job's number, unless MASTER_ADDR and MASTER_PORT say otherwise.
    """
    e = environment
    if "RANK" in e and "WORLD_SIZE" in e:
        host, port = e.get("MASTER_ADDR", "127.0.0.1"), int(e.get("MASTER_PORT", "29500"))
        return Found(int(e["RANK"]), int(e["WORLD_SIZE"]), int(e.get("LOCAL_RANK", "0")), host, port)
    if "SLURM_PROCID" in e and "SLURM_STEP_NUM_TASKS" in e:
        host = e.get("MASTER_ADDR") or first_node(e.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        port = int(e.get("MASTER_PORT") or 20000 + int(e.get("SLURM_JOB_ID", "0")) % 20000)
        ranks = int(e["SLURM_STEP_NUM_TASKS"])
        return Found(int(e["SLURM_PROCID"]), ranks, int(e.get("SLURM_LOCALID", "0")), host, port)
    return None


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: "node[03-05,9],other" is node03."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    assert match is not None, f"{nodes!r} is no list of nodes"
    return match[1] + (match[2] or "")


def join_found(there: Found, gpu: bool) -> None:
    """Become the rank that a launcher made of this process."""
    os.environ.update(
        RANK=str(there.rank),
        WORLD_SIZE=str(there.ranks),
        LOCAL_RANK=str(there.local),
        MASTER_ADDR=there.host,
        MASTER_PORT=str(there.port),
    )
    dist.distributed_c10d.default_pg_timeout = LIMIT
    if gpu:
        torch.cuda.set_device(there.local % torch.cuda.device_count())
    dist.init_process_group("nccl" if gpu else "gloo", rank=there.rank, world_size=there.ranks, timeout=LIMIT)


def all_well(well: bool) -> bool:
    """Whether all ranks say so; every rank asks."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    bad = torch.tensor(int(not well), device=device)
    dist.all_reduce(bad)
    return int(bad) == 0


def leave() -> None:
    """Part when everyone is through, so that no one misses a peer that has ended."""
    dist.barrier()
    dist.destroy_process_group()

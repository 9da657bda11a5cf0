"""What a process does first, so that its numbers can be had again, bit by bit."""

import functools

import torch


@functools.cache
def settle() -> None:
    """Let torch's vector functions find out on one thread what CPU this is; once a process, before any long exp or log.

    In oneMKL 2024.2, which torch 2.13 is built with, they find it out at the first call. Where that one is shared out
    between threads, a thread that comes while another looks may compute its part with a kernel of another accuracy, on
    CPUs of Intel: then the first result of a process is not that of the next (pytorch/pytorch issue 188792).
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for function in (torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.tanh, torch.erf):
            function(one)

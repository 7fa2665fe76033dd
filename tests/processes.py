"""Several processes in a test: one function runs in each of them, joined by torch.distributed with gloo."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist


def run(function, n: int, *args) -> list:
    """What `function(rank, *args)` returned in each of n new processes. A module-level function; plain results."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_enter, (n, folder, function, args), nprocs=n)
        return [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(n)]


def _enter(rank: int, n: int, folder: str, function, args) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=n)
    try:
        torch.save(function(rank, *args), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()

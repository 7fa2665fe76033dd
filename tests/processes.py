"""Several processes in a test: one function runs in each of them, joined by torch.distributed."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist


def run(function, n: int, *args, backend: str = "gloo") -> list:
    """What `function(rank, *args)` returned in each of n new processes; None for one that was killed.

    A module-level function; plain results.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        made = [context.Process(target=_enter, args=(rank, n, backend, folder, function, args)) for rank in range(n)]
        for process in made:
            process.start()
        for process in made:
            process.join()
        errors = [path.read_text() for path in sorted(Path(folder).glob("error-*"))]
        assert not errors, "\n".join(errors)
        results = [Path(folder) / str(rank) for rank in range(n)]
        return [torch.load(path, weights_only=True) if path.exists() else None for path in results]


def _enter(rank: int, n: int, backend: str, folder: str, function, args) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}  # as torchrun does
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=n)
    try:
        torch.save(function(rank, *args), Path(folder) / str(rank))
        dist.destroy_process_group()
    except BaseException:
        (Path(folder) / f"error-{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise

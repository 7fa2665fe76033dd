"""The `triton` backend: Triton kernels, compiled on first use for the GPU that is there.

An update is four launches: triton_read.py reads the tensor, triton_fold.py folds what is left of rows, triton_list.py
finds the largest elements (a few rows are read again), then ranks them and closes the books.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

from .layout import runs

NAME = "triton"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE_TYPES = ("cuda", "xpu", "cpu") if INTERPRETED else ("cuda", "xpu")


@lru_cache
def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if find_spec("triton") is None:
        return "the triton backend needs Triton: pip install triton"
    if INTERPRETED:
        return None
    try:
        from triton.runtime import driver

        target = driver.active.get_current_target()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"the triton backend finds no GPU ({reason}); TRITON_INTERPRET=1 runs it on a CPU, for tests"
    if target.backend == "cuda" and target.arch < 80:
        return f"the triton backend needs an NVIDIA GPU of sm_80 or later, this one is sm_{target.arch}"
    return None


def prepare(state):
    """A state's book on the device, the kernels for its options, and scratch."""
    from .triton_launch import Handle

    return Handle(state)


def update(state, x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> None:
    """Fold x [..., d] into the state's fields; mask bool and token_ids int64 have x's leading shape."""
    state.handle.update(runs(x, mask, token_ids))

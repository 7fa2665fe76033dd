"""The `cuda` backend: one CUDA kernel reads a tensor once (csrc/cuda_kernel.cuh)."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch

from .layout import runs

NAME = "cuda"
DEVICE_TYPES = ("cuda",)


@lru_cache
def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if find_spec(f"{__package__}._cuda") is None:
        return (
            "the cuda backend was not built: install the CUDA toolkit (nvcc, 12.8 or later) and then maxact again"
        )
    try:
        from . import _cuda
    except ImportError as error:
        return f"the cuda backend cannot be loaded ({error}): install maxact again on this machine"
    return _cuda.why_not() or None


class _Handle:
    """A state's C++ probe, with the scratch that must live as long."""

    def __init__(self, state):
        from . import _cuda

        o = state.options
        self.device = state.device.index
        self.scratch = torch.zeros(_cuda.scratch_bytes(self.device, o.topk), dtype=torch.uint8, device=state.device)
        addresses = {name: field.data_ptr() for name, field in state.fields.items()}
        probe = _cuda.CudaProbe(
            addresses, o.dtype, o.d, o.topk, o.t_abs, o.t_ratio, o.n_samples, self.device, self.scratch.data_ptr()
        )
        self.update = probe.update


def prepare(state) -> _Handle:
    """The C++ probe of a state: it keeps the addresses of the state's fields and of its scratch."""
    return _Handle(state)


def update(state, x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> None:
    """Fold x [..., d] into the state's fields; mask bool and token_ids int64 have x's leading shape."""
    handle = state.handle
    stream = torch._C._cuda_getCurrentRawStream(handle.device)
    for run in runs(x, mask, token_ids):
        handle.update(*run, stream)

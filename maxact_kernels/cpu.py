"""The `cpu` backend: C++ threads over rows (csrc/cpu.cpp)."""

from __future__ import annotations

import importlib

import torch

from .layout import runs

NAME = "cpu"
DEVICE_TYPES = ("cpu",)


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    try:
        importlib.import_module(f"{__package__}._cpu")
    except ModuleNotFoundError:
        return "the cpu backend was not built: install a C++17 compiler (Debian: g++) and install maxact again"
    except ImportError as error:
        return f"the cpu backend cannot be loaded ({error}): install maxact again on this machine"
    return None


def prepare(state):
    """The C++ probe of a state; it keeps the addresses of the state's fields and its own scratch."""
    from . import _cpu

    o = state.options
    addresses = {name: field.data_ptr() for name, field in state.fields.items()}
    return _cpu.CpuProbe(addresses, o.dtype, o.d, o.topk, o.t_abs, o.t_ratio, o.n_samples)


def update(state, x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> None:
    """Fold x [..., d] into the state's fields; mask bool and token_ids int64 have x's leading shape."""
    n_threads = torch.get_num_threads()
    for run in runs(x, mask, token_ids):
        state.handle.update(*run, n_threads)

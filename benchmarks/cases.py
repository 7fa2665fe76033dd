"""The cases every benchmark times: tensors as data."""

from __future__ import annotations

from typing import NamedTuple

import torch

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
LEAN = {"counts": False, "medians": False}
INT8 = {"int8_per_token": True}


class Case(NamedTuple):
    name: str
    shape: tuple[int, int]  # tokens, features
    dtype: torch.dtype = BF16
    options: dict = {}
    data: str = "tokens"  # a key of DATA
    layout: str = "contiguous"  # or "masked": 30 % of the tokens hidden; "strided": rows 2 d apart
    target: float | None = None  # the share of the read ceiling of an H100 that it is built to reach


CPU_CASES = [
    Case("all statistics", (4096, 4096)),
    Case("all statistics", (4096, 4096), FP16),
    Case("all statistics", (4096, 4096), FP32),
    Case("all statistics and int8_per_token", (4096, 4096), options=INT8),
    Case("counts=False, medians=False", (4096, 4096), options=LEAN),
    Case("all statistics", (16384, 1024)),
    Case("all statistics", (29127, 576)),
    Case("all statistics", (131072, 128)),
    Case("all statistics", (455, 36864)),
    Case("all statistics, small", (16, 4096)),
]


def _large(d: int, n_bytes: int = 1 << 30) -> tuple[int, int]:
    return n_bytes // 2 // d, d


WIDTHS = {
    0.95: (4096,),
    0.90: (2048, 5120, 8192, 12288),
    0.82: (1024, 2880, 4608, 5376, 18944, 36864),
    0.65: (64, 128, 576),
}
GPU_CASES = [
    *(Case("all statistics", _large(d), target=share) for share, widths in WIDTHS.items() for d in widths),
    *(Case("all statistics and int8_per_token", _large(d), options=INT8, target=0.75) for d in (4096, 2048, 8192, 128)),
    *(Case("counts=False, medians=False", _large(d), options=LEAN, target=0.97) for d in (4096, 2048, 8192)),
    *(Case("all statistics", _large(d), FP16, target=share) for d, share in ((4096, 0.95), (2048, 0.90), (1024, 0.82))),
    *(
        Case("all statistics", _large(d, 1 << 29), FP32, target=share)
        for d, share in ((4096, 0.92), (2048, 0.92), (8192, 0.92), (64, 0.65), (128, 0.65))
    ),
    Case("all statistics", _large(4096), layout="masked", target=0.95),
    Case("all statistics", _large(4096), layout="strided", target=0.95),
    *(
        Case("all statistics", _large(4096), data=data, target=0.475)
        for data in ("zeros", "equal", "ascending", "descending", "one huge", "all massive", "normal", "1e-6 to 1e6")
    ),
]
# The triton backend: the last width of each row of its table (maxact_kernels/triton_shapes.py), and one between.
TRITON_CASES = [
    Case(name, _large(d), options=options, target=target if d in (4096, 5120) else None)
    for d in (4096, 5120, 64, 128, 1024, 2048, 2880, 8192, 18944, 36864)
    for name, options, target in (
        ("counts=False, medians=False", LEAN, 0.90),
        ("counts=False, medians=False and int8_per_token", LEAN | INT8, 0.88),
        ("counts=False", {"counts": False}, 0.60),
        ("all statistics", {}, 0.12),  # counts are what it pays most for
    )
]
SMALL_GPU_CASES = [Case("all statistics, small", (2048, 1024)), Case("all statistics, small", (16, 4096))]


def _tokens(n: int, d: int, g: torch.Generator, device: str) -> torch.Tensor:
    """Normal, each token with a scale of its own, a few large channels: the shape of real activations."""
    x = torch.randn(n, d, generator=g, device=device)
    x *= torch.exp(0.5 * torch.randn(n, 1, generator=g, device=device))
    x[:, torch.randint(d, (max(1, d // 512),), generator=g, device=device)] *= 30
    return x


def _ramp(n: int, d: int, g: torch.Generator, device: str) -> torch.Tensor:
    return torch.linspace(1e-3, 1e3, n * d, device=device).view(n, d)


def _one_huge(n: int, d: int, g: torch.Generator, device: str) -> torch.Tensor:
    x = torch.randn(n, d, generator=g, device=device)
    x.scatter_(1, torch.randint(d, (n, 1), generator=g, device=device), 20000.0)
    return x


def _all_massive(n: int, d: int, g: torch.Generator, device: str) -> torch.Tensor:
    x = 1e-3 * torch.randn(n, d, generator=g, device=device)
    return torch.where(torch.rand(n, d, generator=g, device=device) < 100 / d, 200 + 1e6 * x.abs(), x)


DATA = {
    "tokens": _tokens,
    "normal": lambda n, d, g, device: torch.randn(n, d, generator=g, device=device),
    "zeros": lambda n, d, g, device: torch.zeros(n, d, device=device),
    "equal": lambda n, d, g, device: torch.full((n, d), 1.5, device=device),
    "ascending": _ramp,
    "descending": lambda n, d, g, device: _ramp(n, d, g, device).flip(0).flip(1),
    "one huge": _one_huge,
    # Most of each token near 1e-3, a hundred features of it over 100: every token passes the Sun test by many elements.
    "all massive": _all_massive,
    "1e-6 to 1e6": lambda n, d, g, device: torch.exp(
        torch.empty(n, d, device=device).uniform_(-13.8, 13.8, generator=g)
    ),
}


def make(case: Case, device: str = "cpu", seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tensor of a case and its mask; made in slices, so that float32 intermediates stay small."""
    n, d = case.shape
    generator = torch.Generator(device).manual_seed(seed)
    stride = 2 * d if case.layout == "strided" else d
    x = torch.empty(n, stride, dtype=case.dtype, device=device)[:, :d]
    step = max(1, (1 << 26) // d)
    if case.data in ("ascending", "descending"):
        x.copy_(DATA[case.data](n, d, generator, device))
    else:
        for start in range(0, n, step):
            x[start : start + step] = DATA[case.data](min(step, n - start), d, generator, device).to(case.dtype)
    mask = None
    if case.layout == "masked":
        mask = torch.rand(n, generator=generator, device=device) >= 0.3
    return x, mask


def bytes_that_count(case: Case, mask: torch.Tensor | None) -> int:
    """What must be read: the tokens that the mask keeps, without the gaps between rows."""
    n = case.shape[0] if mask is None else int(mask.sum())
    return n * case.shape[1] * case.dtype.itemsize

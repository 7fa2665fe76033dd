"""The cases every benchmark times: tensors as data."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Case(NamedTuple):
    name: str
    shape: tuple[int, int]  # tokens, features
    dtype: torch.dtype = torch.bfloat16
    options: dict = {}


CPU_CASES = [
    Case("all statistics", (4096, 4096)),
    Case("all statistics", (4096, 4096), torch.float16),
    Case("all statistics", (4096, 4096), torch.float32),
    Case("all statistics and int8_per_token", (4096, 4096), options={"int8_per_token": True}),
    Case("counts=False, medians=False", (4096, 4096), options={"counts": False, "medians": False}),
    Case("all statistics", (16384, 1024)),
    Case("all statistics", (29127, 576)),
    Case("all statistics", (131072, 128)),
    Case("all statistics", (455, 36864)),
    Case("all statistics, small", (16, 4096)),
]


def make(case: Case, device: str, seed: int = 0) -> torch.Tensor:
    """Normal data, each token with a scale of its own, a few large channels: the shape of real activations."""
    generator = torch.Generator().manual_seed(seed)
    n, d = case.shape
    x = torch.randn(n, d, generator=generator)
    x *= torch.exp(0.5 * torch.randn(n, 1, generator=generator))
    x[:, torch.randint(d, (max(1, d // 512),), generator=generator)] *= 30
    return x.to(case.dtype).to(device)

"""Small runs from tensors written down by hand, and text that a terminal, a page or a spreadsheet might obey."""

from __future__ import annotations

import torch

from maxact.run import Run, Sites
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays

HOSTILE = "[/red]\x1b[31m<script>alert(1)</script>|`${{7*7}}`\n# <!-- maxact --> ![x](http://x.invalid/) =1+1 \u202e"


def run_of(tensors: dict[str, torch.Tensor], options: dict | None = None, **provenance) -> Run:
    """A run whose sites saw these tensors [samples, positions, d]."""
    sites = {}
    for name, x in tensors.items():
        n_samples, n_positions = x.shape[:2]
        ids = (torch.arange(n_samples)[:, None] << 32) + torch.arange(n_positions)
        state = fused_probe(
            x, token_ids=ids, n_samples=n_samples, **dict(topk=9, int8_per_token=True) | (options or {})
        )
        sites[name] = state.options, Arrays(state.host_arrays())
    return Run(Sites(sites), {"partial": False, "maxact": "0.1.0"} | provenance)


def noise(n_samples=3, n_positions=4, d=16, dtype=torch.bfloat16, seed=0) -> torch.Tensor:
    return torch.randn(n_samples, n_positions, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_peak(value: float, at: tuple[int, int, int] = (1, 2, 5), **of_noise) -> torch.Tensor:
    """Noise with one element of this value."""
    x = noise(**of_noise)
    x[at] = value
    return x

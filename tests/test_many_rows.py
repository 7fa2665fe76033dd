"""More rows than programs, wide enough for each way that a kernel reads a row, with every hazard among them."""

import pytest
import torch
from probes import REFERENCE, assert_agrees, assert_identical, every_kernel, noise

# Triton looks at a row once, then twice from 2,056 to 5,120 (triton_shapes.py): the first of these, one of three whole steps, the last.
WIDTHS = [2048, 2056, 2880, 5120]
OPTIONS = {"counts": False, "medians": False, "int8_per_token": True, "topk": 20, "n_samples": 3}
types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def rows_for(place) -> int:
    """More than a GPU's programs take in one turn: what comes after it goes to whoever asks."""
    return 3001 if place.device == "cuda" else 61


def hazards(n: int, d: int, dtype: torch.dtype) -> torch.Tensor:
    x = noise(n, d, dtype=dtype)
    for first in (0, n - 60):  # rows that are dealt, and rows that are asked for
        part = x[first : first + 60]
        part[3], part[14], part[19], part[23] = 0, part[14] * 1e-30, part[19].abs(), part[23].relu()
        part[5, d // 2], part[7, -1], part[11] = float("nan"), float("-inf"), float("inf")
        part[13, 0] = 60000 if dtype is torch.float16 else 1e30
        part[17] = 1 + torch.rand(d, generator=torch.Generator().manual_seed(d)) * 2.0**-8
        part[21] = 0 if dtype is torch.float16 else 2.0**59
        part[29, -1], part[31, 0] = 40000, -40000
        part[33] = torch.where(torch.arange(d) % 2 == 0, part[33] / 64, 5.0)  # massive: most elements are small
    return x


@every_kernel
@types
@pytest.mark.parametrize("d", WIDTHS)
def test_an_update_leaves_nothing_behind_for_the_next(place, d, dtype):
    x = hazards(rows_for(place), d, dtype)
    n = len(x)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(d)) < 0.8
    ids = (torch.arange(n) % 3 << 32 | torch.arange(n) // 5).flip(0)
    batches = [(x, None, None), (x[: n // 2], mask[: n // 2], None), (x, mask, ids), (x[:1], None, None)]
    seen = torch.cat([part if kept is None else part[kept] for part, kept, _ in batches])
    assert_agrees(*(where.stream(batches, d, dtype, **OPTIONS) for where in (place, REFERENCE)), seen)


@every_kernel
@types
@pytest.mark.parametrize("d", WIDTHS)
def test_rows_anywhere_in_memory(place, d, dtype):
    n = rows_for(place)
    x = hazards(n, d, dtype)
    expected = REFERENCE.probe(x, **OPTIONS)
    for first, width in ((d, 2 * d), (1, d + 1)):  # every other row; rows that begin at an odd element
        base = torch.full((n, width), float("nan"), dtype=dtype, device=place.device)
        base[:, first : first + d] = x.to(place.device)
        assert_agrees(place.probe(base[:, first : first + d], **OPTIONS), expected, x)


@every_kernel
@types
def test_twenty_runs_give_the_same_bits(place, dtype):
    x = hazards(rows_for(place), 4096, dtype).to(place.device)
    expected = place.probe(x, **OPTIONS)
    for _ in range(19):
        assert_identical(place.probe(x, **OPTIONS), expected)

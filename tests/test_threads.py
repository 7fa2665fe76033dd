"""The number of threads changes no bit of the answer."""

import math

import pytest
import torch
from probes import REFERENCE, assert_agrees, assert_identical, every_dtype, noise

from maxact_kernels import ProbeState, backends, fused_probe

N, D = 1031, 1100  # 4 threads of more than 2^18 elements, the least that csrc/cpu.cpp starts one for

pytestmark = pytest.mark.skipif(
    not next(row for row in backends() if row.name == "cpu").available, reason="the cpu backend was not built"
)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def crowded(dtype: torch.dtype) -> torch.Tensor:
    """What threads could disagree on: the same peaks, ratios and non-finite values in the rows of each."""
    x = noise(N, D, dtype=dtype)
    x[::97, 7] = 60000.0
    x[50::97, 9] = -60000.0
    x[3::200, 4] = math.nan
    x[5::300, 11] = -math.inf
    x[::111] = 0.0
    return x


@every_dtype
@pytest.mark.parametrize("named", [False, True], ids=["default ids", "named tokens"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_one_two_and_four_threads_give_the_same_bits(threads, dtype, named, masked):
    x = crowded(dtype)
    mask = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.9 if masked else None
    ids = (torch.arange(N) % 5 << 32 | torch.arange(N) // 7).flip(0) if named else None
    options = dict(topk=500, n_samples=5, int8_per_token=True)
    states = []
    for n in (1, 2, 4):
        threads(n)
        states.append(fused_probe(x, mask=mask, token_ids=ids, **options, backend="cpu"))
    assert_identical(states[1], states[0])
    assert_identical(states[2], states[0])
    reference = REFERENCE.probe(x, mask, ids, **options)
    assert_agrees(states[2], reference, x if mask is None else x[mask])


def test_threads_keep_nothing_from_one_update_to_the_next(threads):
    x = crowded(torch.bfloat16)
    states = []
    for counts in ((1, 1, 1), (4, 1, 2)):
        state = ProbeState(D, torch.bfloat16, topk=300, int8_per_token=True, backend="cpu")
        for n, part in zip(counts, (x, x.flip(0), x / 2), strict=True):
            threads(n)
            state.update(part)
        states.append(state)
    assert_identical(*states)


def test_more_threads_than_tokens(threads):
    x = noise(3, 1 << 19)
    states = []
    for n in (1, 8):
        threads(n)
        states.append(fused_probe(x, backend="cpu"))
    assert_identical(*states)

"""The massive-activation test of Sun et al. 2024, by its definition, thresholds strict."""

import numpy as np
import pytest
import torch
from probes import REFERENCE, assert_agrees, every_backend, every_dtype, every_kernel, noise


def defined(x: torch.Tensor, t_abs: float, t_ratio: float) -> tuple[int, int]:
    """(massive tokens, massive elements) in NumPy, float32 throughout."""
    a = np.sort(np.abs(x.float().numpy()), axis=1)
    m, median = a[:, -1:], a[:, (a.shape[1] - 1) // 2][:, None]
    t_abs, t_ratio = np.float32(t_abs), np.float32(t_ratio)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tokens = (m > t_abs) & (m / median > t_ratio)
        return int(tokens.sum()), int(((a > t_abs) & (a > t_ratio * median)).sum())


def found(place, x, t_abs=100.0, t_ratio=1000.0) -> tuple[int, int]:
    s = place.probe(x, t_abs=t_abs, t_ratio=t_ratio).summary()
    return s.n_massive_tokens, s.n_massive_elements


@every_backend
@every_dtype
def test_both_thresholds_are_strict(place, dtype):
    x = torch.full((6, 9), 0.125, dtype=dtype)
    for row, peak in enumerate([125.0, 125.5, 124.0, -125.5, 126.0, 100.0]):
        x[row, row] = peak
    x[4, 5:8] = torch.tensor([-126.0, 125.0, 100.0])
    assert found(place, x) == (3, 4)  # ratios over 1000: rows 1, 3 and 4, which has two such elements
    assert found(place, x, t_abs=125.0) == (3, 4)
    assert found(place, x, t_abs=125.5) == (1, 2)
    assert found(place, x, t_abs=126.0) == (0, 0)
    assert found(place, x, t_ratio=999.0) == (4, 6)
    assert found(place, x, t_abs=1e30) == (0, 0)


@every_backend
@every_dtype
@pytest.mark.parametrize("t_abs, t_ratio", [(100.0, 1000.0), (0.0, 0.0), (0.5, 2.0), (3.0, 1.0), (0.0, 7.3), (20, 64)])
def test_counts_are_those_of_the_definition(place, dtype, t_abs, t_ratio):
    x = torch.cat((noise(60, 33, dtype=dtype), 0.01 * noise(60, 33, dtype=dtype, seed=1)))
    x[::7, 20] = 255.0
    x[::11, 21], x[::14, 22] = -0.4, -240.0
    x[5], x[6, :20] = 0.0, 0.0
    expected = defined(x, t_abs, t_ratio)
    assert found(place, x, t_abs, t_ratio) == expected
    assert expected[0] > 0 and expected[1] > expected[0]


@every_backend
def test_thresholds_are_float32_like_the_elements(place):
    x = torch.tensor([[0.1, 0.1, 0.1]])
    assert found(place, x, t_abs=0.1, t_ratio=0.0) == (0, 0)  # 0.1 as float64 is less than as float32
    assert found(place, x, t_abs=0.0999, t_ratio=0.0) == (1, 3)


def on_the_edge() -> torch.Tensor:
    """float32 tokens whose peak is 1000 medians, rounded, or a neighbour of that. [n, 3]"""
    median = torch.arange(0x3F800000, 0x40000000, 1009, dtype=torch.int32).view(torch.float32)
    product = 1000.0 * median
    neighbours = [product.nextafter(torch.tensor(torch.inf)), product, product.nextafter(torch.tensor(0.0))]
    return torch.cat([torch.stack((torch.zeros_like(median), median, peak), dim=1) for peak in neighbours])


@every_backend
def test_tokens_and_elements_are_each_decided_by_their_own_rounding(place):
    """In float32 fl(m / med) > 1000 and m > fl(1000 * med) differ for some tokens."""
    x = on_the_edge()
    tokens, elements = defined(x, 100.0, 1000.0)
    assert tokens != elements
    assert found(place, x) == (tokens, elements)


@every_backend
def test_a_threshold_that_16_bit_ratios_round_to(place):
    """As above for bf16, whose ratio can round to a threshold of 24 bits."""
    m, median = (torch.arange(128, 256).bfloat16() for _ in range(2))
    x = torch.stack((torch.zeros(128, 128), median[None, :].expand(128, -1), m[:, None].expand(-1, 128)), -1).bfloat16()
    x = x.view(-1, 3)
    ratios = (m.float()[100] / median.float()[30:38]).tolist()
    expected = {ratio: defined(x, 0.0, ratio) for ratio in ratios}
    assert any(tokens != elements for tokens, elements in expected.values())
    assert {ratio: found(place, x, 0.0, ratio) for ratio in ratios} == expected


@every_kernel
@every_dtype
def test_backends_agree_where_every_token_is_near_the_edge(place, dtype):
    x = on_the_edge().to(dtype)
    assert_agrees(place.probe(x), REFERENCE.probe(x), x)

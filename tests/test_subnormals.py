"""Subnormals are magnitudes like any other: none is flushed to zero, each has its own cell of the counts."""

import numpy as np
import pytest
import torch
from probes import (
    EVERYTHING,
    REFERENCE,
    assert_agrees,
    every_backend,
    every_dtype,
    every_kernel,
    from_bits,
    sign_bit,
    smallest_normal_bits,
)

SIXTEEN = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def every_subnormal(dtype: torch.dtype) -> torch.Tensor:
    """All of both signs; of float32, one of each 2^10. [n, 32]"""
    step = 1 << 10 if dtype == torch.float32 else 1
    magnitudes = np.arange(step, smallest_normal_bits(dtype) + step, step)  # the last is the smallest normal number
    both = np.concatenate((magnitudes, magnitudes | sign_bit(dtype)))
    return from_bits(np.random.default_rng(0).permutation(both), dtype).view(-1, 32)


@every_backend
@SIXTEEN
def test_every_subnormal_is_counted_in_its_own_cell(place, dtype):
    x = every_subnormal(dtype)
    s = place.probe(x).summary()
    normal = smallest_normal_bits(dtype)
    assert s.n_zero == 0 and s.n_elements == 2 * normal
    assert s.counts[0] == 0 and (s.counts[1 : normal + 1] == 2).all() and (s.counts[normal + 1 :] == 0).all()
    assert s.absmax == from_bits(normal, dtype).item() and s.n_absmax == 2
    assert s.quantile(0) == from_bits(1, dtype).item() > 0
    assert s.mean == 0.0


@every_kernel
@every_dtype
def test_backends_agree_on_subnormals(place, dtype):
    x = every_subnormal(dtype)
    options = dict(topk=1024, int8_per_token=True, t_abs=0.0, t_ratio=1.5)
    state = place.probe(x, **options)
    assert_agrees(state, REFERENCE.probe(x, **options), x)
    assert state.summary().n_massive_tokens > 0


@every_backend
@every_dtype
def test_medians_and_ratios_of_subnormals_are_exact(place, dtype):
    x = from_bits(np.array([[3, 6, 1], [1, 7, 1]]), dtype)
    s = place.probe(x, t_abs=0.0, t_ratio=1.5).summary()
    assert (s.ratio_max, s.ratio_max_token, s.peak_ratio) == (7.0, 1, 7.0)
    assert s.ratio_max_median == from_bits(1, dtype).item() > 0
    assert (s.ratio_mean, s.n_zero_median, s.n_massive_tokens, s.n_massive_elements) == (4.5, 0, 2, 2)


@every_backend
@every_dtype
def test_a_sum_of_subnormals_is_not_zero(place, dtype):
    smallest = from_bits(1, dtype).double().item()
    s = place.probe(from_bits(np.full((3, 50), 1), dtype), **EVERYTHING).summary()
    assert s.mean == smallest and s.rms == pytest.approx(s.quantile(1), rel=1e-12 if s.exact else 1)
    assert s.int8_per_token.rel_mae < 2**-23  # each equals its token's largest: no error but that of the scale


@every_backend
def test_the_smallest_float32_is_the_bin_of_zero_but_not_zero(place):
    s = place.probe(torch.tensor([[0.0, 1e-45, -1e-45, 2.0]])).summary()
    assert (s.n_zero, s.counts[0], s.n_elements) == (1, 3, 4)
    assert s.channel_absmax.tolist() == [0.0, 2.0**-149, 2.0**-149, 2.0]

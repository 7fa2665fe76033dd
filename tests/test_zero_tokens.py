"""Tokens of zeros, of either sign: they exist, and have no ratio."""

import math

import pytest
import torch
from probes import EVERYTHING, REFERENCE, assert_agrees, every_backend, every_dtype, every_kernel, noise


@every_backend
@every_dtype
@pytest.mark.parametrize("zero", [0.0, -0.0], ids=["zeros", "negative zeros"])
def test_a_stream_of_zeros(place, dtype, zero):
    s = place.probe(torch.full((4, 10), zero, dtype=dtype), **EVERYTHING).summary()
    assert (s.n_elements, s.n_tokens, s.n_zero, s.counts[0]) == (40, 4, 40, 40)
    assert (s.absmax, s.n_absmax, s.n_zero_median, s.n_massive_tokens) == (0.0, 40, 0, 0)
    assert [math.copysign(1, v) for v in (s.min, s.max, s.absmax)] == [1, 1, 1] and s.min == s.max == s.mean == 0
    assert (s.rms, s.std, s.abs_mean, s.quantile(1)) == (0.0, 0.0, 0.0, 0.0)
    assert math.isnan(s.ratio_max) and math.isnan(s.ratio_mean) and math.isnan(s.peak_ratio)
    assert s.ratio_max_token is None and s.peak_median == 0.0 and s.ratio_table.sum() == 0
    assert all(map(math.isnan, s.int8_per_token))
    assert s.topk.values.tolist() == [0.0] * 7 and s.topk.features.tolist() == list(range(7))
    assert (torch.from_numpy(s.topk.values).signbit() == (math.copysign(1, zero) < 0)).all()


@every_backend
@every_dtype
def test_tokens_of_zeros_take_no_part_in_ratios(place, dtype):
    x = noise(5, 16, dtype=dtype)
    with_zeros = torch.cat((torch.zeros(1, 16, dtype=dtype), x[:3], -torch.zeros(2, 16, dtype=dtype), x[3:]))
    more, s = place.probe(with_zeros, **EVERYTHING).summary(), place.probe(x, **EVERYTHING).summary()
    assert (more.n_tokens, more.n_zero) == (8, s.n_zero + 48)
    for name in "ratio_max ratio_mean ratio_std n_zero_median peak_median peak_ratio absmax n_absmax".split():
        assert getattr(more, name) == getattr(s, name), name
    assert more.ratio_table.sum() == 5 and more.int8_per_token == s.int8_per_token


@every_backend
def test_zero_thresholds_make_no_zero_massive(place):
    s = place.probe(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), t_abs=0.0, t_ratio=0.0).summary()
    assert (s.n_massive_tokens, s.n_massive_elements) == (2, 3)


@every_kernel
@every_dtype
def test_backends_agree_on_zeros_of_both_signs(place, dtype):
    x = torch.where(torch.arange(300).view(10, 30) % 7 < 4, 0.0, -0.0).to(dtype)
    x[4, 20] = -1.0
    for seen in (x[:4], x):
        assert_agrees(place.probe(seen, **EVERYTHING), REFERENCE.probe(seen, **EVERYTHING), seen)

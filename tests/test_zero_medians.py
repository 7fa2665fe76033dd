"""Tokens of which more than half is zero: an infinite ratio, counted, and left out of the mean."""

import math

import pytest
import torch
from probes import REFERENCE, assert_agrees, every_backend, every_dtype, every_kernel, noise


@every_backend
@every_dtype
def test_a_zero_median_gives_an_infinite_ratio(place, dtype):
    x = torch.tensor([[0.0, -0.0, 3.0], [1.0, 4.0, 2.0], [0.0, 0.0, 0.0]], dtype=dtype)
    s = place.probe(x).summary()
    assert s.n_zero_median == 1
    assert (s.ratio_max, s.ratio_max_token, s.ratio_max_absmax, s.ratio_max_median) == (math.inf, 0, 3.0, 0.0)
    assert (s.ratio_mean, s.ratio_std) == (2.0, 0.0)
    assert (s.peak_median, s.peak_ratio) == (2.0, 2.0)
    assert s.ratio_table.sum() == 2 and s.ratio_table[:, -1].sum() == 1


@every_backend
@every_dtype
@pytest.mark.parametrize("d, zeros", [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 4), (9, 5), (256, 128), (257, 129)])
def test_the_fewest_zeros_that_make_the_median_zero(place, dtype, d, zeros):
    # The lower median is the element of rank (d - 1) // 2 + 1: so many zeros make it zero, one fewer does not.
    assert zeros == (d - 1) // 2 + 1 or d == 1
    x = torch.full((2, d), 5.0, dtype=dtype)
    x[0, :zeros] = 0.0
    x[1, : zeros - 1] = 0.0
    s = place.probe(x).summary()
    assert s.n_zero_median == (0 if d == 1 else 1)
    assert s.ratio_mean == 1.0


@every_backend
@every_dtype
def test_an_infinite_ratio_is_massive_if_the_peak_is(place, dtype):
    x = torch.zeros(3, 9, dtype=dtype)
    x[0, 1], x[1, 2], x[1, 3], x[2, 4] = 100.0, 101.0, -200.0, 3.0
    s = place.probe(x).summary()
    assert (s.n_massive_tokens, s.n_massive_elements, s.n_zero_median) == (1, 2, 3)


@every_backend
def test_an_infinite_peak_ratio_is_kept(place):
    s = place.probe(torch.tensor([[0.0, 0.0, 7.0], [1.0, 1.0, 2.0]])).summary()
    assert (s.peak_median, s.peak_ratio) == (0.0, math.inf)


@every_backend
def test_a_ratio_beyond_float32_is_infinite_without_a_zero_median(place):
    s = place.probe(torch.tensor([[1e-40, 1e-40, 1e30]])).summary()
    assert (s.ratio_max, s.n_zero_median) == (math.inf, 0)
    assert math.isnan(s.ratio_mean)


@every_kernel
@every_dtype
def test_backends_agree_on_sparse_activations(place, dtype):
    x = noise(64, 129, dtype=dtype).relu()
    x[::3, : 129 // 2] = 0.0
    x[7] = 0.0
    options = dict(int8_per_token=True, t_abs=1.0)
    state = place.probe(x, **options)
    assert_agrees(state, REFERENCE.probe(x, **options), x)
    assert 10 < state.summary().n_zero_median < 60

"""Quantiles against sorting, moments against float64, from the counts alone."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from probes import REFERENCE, U, every_backend, every_dtype, law, noise, tensors

QS = ["0", "0.001", "0.25", "0.3", "0.5", "0.7", "0.9", "0.99", "0.999", "0.9999", "1"]


def by_sorting(x: torch.Tensor, q: str) -> float:
    """The smallest magnitude v with count(|x| <= v) >= ceil(q n), q as a decimal."""
    magnitudes = x[x.isfinite()].double().abs().sort().values
    return magnitudes[max(1, math.ceil(Fraction(q) * len(magnitudes))) - 1].item()


@law
@given(tensors(dtype=torch.bfloat16) | tensors(dtype=torch.float16))
def test_quantiles_of_16_bits_are_exact(x):
    s = REFERENCE.probe(x).summary()
    for q in QS if s.n_elements else []:
        assert s.quantile(float(q)) == by_sorting(x, q), q


@law
@given(tensors(dtype=torch.float32))
def test_quantiles_of_float32_are_the_upper_end_of_the_bin(x):
    """From the true one upwards by less than the width of a bin; that is 2^-7 of a normal number, 2^-133 of others."""
    s = REFERENCE.probe(x).summary()
    for q in QS if s.n_elements else []:
        true = by_sorting(x, q)
        assert true <= s.quantile(float(q)) <= min(s.absmax, true + max(true * s.bound, 2.0**-133)), q


@every_backend
@pytest.mark.parametrize("n", [1, 2, 3, 100, 200, 999, 1000, 1001])
def test_the_rank_of_a_quantile_is_not_rounded(place, n):
    """0.07 * 100 is 7 and 0.55 * 100 is 55; in float64 both are above, and the next element would be taken."""
    x = torch.arange(1, n + 1).view(1, -1).float()
    x = torch.where(x <= 256, x, 256 + 2 * (x - 256)).half()  # different in 11 bits
    s = place.probe(x).summary()
    for q in [*QS, "0.07", "0.55"]:
        assert s.quantile(float(q)) == by_sorting(x, q), q


@every_backend
@every_dtype
def test_moments_are_those_of_float64(place, dtype):
    x = noise(100, 333, dtype=dtype) + 0.5
    x[4, 7], x[5, 8] = math.nan, math.inf
    s = place.probe(x).summary()
    exact = x[x.isfinite()].double().numpy()
    abs_mean, rms = np.abs(exact).mean(), math.sqrt(np.square(exact).mean())
    # A bin of float32 counts as its middle: off by 2^-8 of a magnitude, by 2^-7 + 2^-16 of its square.
    off = (1e-13, 1e-13) if s.exact else (2**-8, (2**-7 + 2**-16) / 2)
    assert s.abs_mean == pytest.approx(abs_mean, rel=off[0], abs=0)
    assert s.rms == pytest.approx(rms, rel=off[1], abs=0)
    # std^2 = rms^2 - mean^2, the mean off by 16 U abs_mean.
    variance_off = 2 * off[1] * rms**2 * 1.01 + 2 * abs(exact.mean()) * 16.1 * U * abs_mean
    assert abs(s.std**2 - exact.var()) <= variance_off
    assert s.exact is (dtype != torch.float32) and s.bound == (0 if s.exact else 2**-7)


@every_backend
def test_a_constant_has_no_spread(place):
    s = place.probe(torch.full((64, 64), -1.5).bfloat16()).summary()
    assert (s.mean, s.abs_mean, s.rms, s.std) == (-1.5, 1.5, 1.5, 0.0)


@every_backend
def test_moments_of_the_largest_bfloat16_do_not_overflow(place):
    largest = torch.finfo(torch.bfloat16).max
    s = place.probe(torch.tensor([[largest, -largest]]).bfloat16()).summary()
    assert (s.mean, s.abs_mean, s.rms, s.std) == (0.0, largest, largest, largest)


@every_backend
@every_dtype
def test_counts_are_the_upper_bits_without_the_sign(place, dtype):
    x = noise(10, 100, dtype=dtype)
    keys = x.view(torch.int32) >> 16 if dtype == torch.float32 else x.view(torch.int16)
    expected = torch.bincount((keys & 0x7FFF).flatten().long(), minlength=32768)
    counts = place.probe(x).summary().counts
    assert counts.shape == (32768,) and counts.dtype == np.int64 and (counts == expected.numpy()).all()


@pytest.mark.parametrize("q", [-0.001, 1.001, math.nan, math.inf])
def test_a_quantile_outside_0_to_1_is_refused(q):
    with pytest.raises(ValueError, match="q: .*expected 0 to 1"):
        REFERENCE.probe(noise(2, 2)).summary().quantile(q)

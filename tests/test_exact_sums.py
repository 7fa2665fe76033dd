"""Sums of floats: within their bound of the true sum, and independent of everything else."""

import math

import pytest
import torch
from probes import (
    REFERENCE,
    U,
    assert_agrees,
    every_backend,
    every_dtype,
    every_kernel,
    from_bits,
    infinity_bits,
    noise,
    value,
)

from maxact_kernels.fields import EXPONENT_MIN, N_EXPONENTS
from maxact_kernels.summary import exact_value


def true_sum(x: torch.Tensor) -> float:
    return math.fsum(x.double().flatten().tolist())


@every_backend
@every_dtype
@pytest.mark.parametrize("shape", [(3, 256), (5, 257), (2, 5000), (400, 7)], ids=str)
def test_the_mean_is_within_its_bound_of_float64(place, dtype, shape):
    """15 U sum|x| from lanes of 16 additions, U from the row's rounding to 24 bits: below the 1e-6 promised."""
    for x in (noise(*shape, dtype=dtype), noise(*shape, dtype=dtype).abs(), torch.full(shape, 0.1).to(dtype)):
        bound = 16 * U * (1 + 2**-10)
        assert bound < 1e-6
        mean = place.probe(x).summary().mean
        assert abs(mean - true_sum(x) / x.numel()) <= bound * x.double().abs().mean().item()


@every_backend
@every_dtype
@pytest.mark.parametrize("signs", ["one sign", "both signs"])
def test_a_sum_of_the_largest_values_does_not_overflow(place, dtype, signs):
    """They exceed float32 after two additions in bf16 and fp32."""
    x = from_bits(infinity_bits(dtype) - 1, dtype).repeat(3, 1000)
    if signs == "both signs":
        x[:, ::3] *= -1
    s = place.probe(x).summary()
    assert s.mean == pytest.approx(true_sum(x / 4) / 3000 * 4, rel=16 * U, abs=0)
    assert_agrees(place.probe(x, int8_per_token=True), REFERENCE.probe(x, int8_per_token=True), x)


@every_kernel
@every_dtype
@pytest.mark.parametrize("exponent", [-120, -62, -58, 0, 60, 120])
def test_int8_sums_agree_at_every_scale(place, dtype, exponent):
    x = (noise(20, 300, dtype=torch.float64) * 2.0**-9 * 2.0**exponent).to(dtype)
    assert_agrees(place.probe(x, int8_per_token=True), REFERENCE.probe(x, int8_per_token=True), x[x.isfinite()])


@every_backend
@every_dtype
def test_int8_per_token_is_the_error_of_one_scale_for_each_token(place, dtype):
    """Against float64. u carries two float32 roundings, so each |err| / scale is off by at most 2 U |u|, and the sums
    of |err| and |x| by 17 U and 19 U of themselves: rel_mae by 2 U + 36 U rel_mae, rel_rmse, whose sums of squares
    are under roots, by 2 U + (17 + 22) / 2 U rel_rmse.
    """
    x = noise(50, 700, dtype=dtype)
    x[3] = 0.0
    exact = x.double()
    scale = exact.abs().amax(-1, keepdim=True) / 127
    error = torch.where(scale > 0, (exact / scale).round() * scale - exact, 0.0)
    mae = (error.abs().sum() / exact.abs().sum()).item()
    rmse = (error.square().sum() / exact.square().sum()).sqrt().item()
    found = place.probe(x, int8_per_token=True).summary().int8_per_token
    assert abs(found.rel_mae - mae) <= 2 * U + 36.1 * U * mae
    assert abs(found.rel_rmse - rmse) <= 2 * U + 19.6 * U * rmse
    assert found.sqnr_db == pytest.approx(-20 * math.log10(found.rel_rmse), rel=1e-12)


@every_backend
def test_tokens_on_the_int8_grid_have_no_error(place):
    x = torch.arange(-127.0, 128.0).view(1, -1) * torch.tensor([[1.0], [0.25], [1024.0]])
    s = place.probe(x.bfloat16(), int8_per_token=True).summary().int8_per_token
    assert s == (math.inf, 0.0, 0.0)


def test_an_exact_sum_covers_the_squares_of_float32():
    """Of the smallest, and a sum of 2^31 of the largest; each bin of int64 takes 2^39 addends of 24 bits."""
    assert EXPONENT_MIN <= 2 * -149 and EXPONENT_MIN + N_EXPONENTS - 1 >= 2 * 128 + 31
    assert (2**39 - 1) * 2**24 < 2**63


@every_backend
def test_the_ratio_sums_hold_the_largest_and_smallest_ratio(place):
    x = torch.tensor([[1e-38, 1e-38, 1.0], [1.0, 1.0, 1.0]])
    state = place.probe(x)
    ratio = (x[0, 2] / x[0, 0]).double().item()
    assert value(state, "ratio_sum") == ratio + 1.0
    assert value(state, "ratio_square_sum") == pytest.approx(ratio**2, rel=U, abs=0)


def test_the_value_of_an_exact_sum_is_correctly_rounded():
    import numpy as np

    bins = np.zeros(N_EXPONENTS, dtype=np.int64)
    bins[0 - EXPONENT_MIN] = 1 << 23  # 2^-1, in the bin of its exponent as frexp has it
    assert exact_value(bins) == 0.5
    bins[-40 - EXPONENT_MIN] = 1 << 23  # 2^-41
    bins[60 - EXPONENT_MIN] = -(1 << 23)  # -2^59, beside which float64 loses both
    bins[60 - EXPONENT_MIN] += 1 << 23
    assert exact_value(bins) == 0.5 + 2.0**-41

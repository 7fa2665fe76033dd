"""The error of a quantizer from the counts against quantizing the tensor itself."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from probes import REFERENCE, from_bits, noise

from maxact_kernels.quantization import error_of

FP8 = {"fp8_e4m3": (torch.float8_e4m3fn, 448.0), "fp8_e5m2": (torch.float8_e5m2, 57344.0)}
FORMATS = ["int2", "int3", "int4", "int5", "int8", "int12", "int16", *FP8]
THRESHOLDS = ["max", "q0.999", "q0.9", "mse", 1.0, 0.37, 100.0, 1e-3]
SIXTEEN = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def quantized(x: np.ndarray, fmt: str, threshold: float) -> tuple[np.ndarray, float]:
    """x [n] float64 through the quantizer and back, and its scale; FP8 by PyTorch's own casts."""
    if fmt in FP8:
        dtype, top = FP8[fmt]
        scale = threshold / top
        # Saturation first: beyond the largest value the casts give nan or inf. They take float32, whose rounding
        # moves an element across a midpoint only if it is within 2^-24 of it, where both sides have that error.
        clamped = torch.from_numpy(np.clip(x / scale, -top, top)).float().clamp(-top, top)
        return clamped.to(dtype).double().numpy() * scale, scale
    top = 2 ** (int(fmt[3:]) - 1) - 1
    scale = threshold / top
    return np.rint(np.clip(x, -threshold, threshold) / scale) * scale, scale


def assert_is_direct(error, x: np.ndarray, fmt: str) -> None:
    q, scale = quantized(x, fmt, error.threshold)
    squares, noise_squares = math.fsum(x**2), math.fsum((q - x) ** 2)
    off = 1e-6 if fmt in FP8 else 1e-9  # float64 throughout; FP8 casts round through float32
    assert error.rel_rmse == pytest.approx(math.sqrt(noise_squares / squares), rel=off)
    assert error.rel_mae == pytest.approx(math.fsum(abs(q - x)) / math.fsum(abs(x)), rel=off)
    assert error.sqnr_db == pytest.approx(10 * math.log10(squares / noise_squares), abs=1e-5)
    assert error.clip_rate == np.count_nonzero(abs(x) > error.threshold) / len(x)
    assert error.zeroed == np.count_nonzero((q == 0) & (x != 0)) / np.count_nonzero(x)
    assert error.scale == pytest.approx(scale, rel=1e-15)
    assert error.exact and error.sqnr_db_bounds == (error.sqnr_db, error.sqnr_db)


@SIXTEEN
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_error_is_that_of_quantizing_the_tensor(dtype, fmt, threshold):
    x = noise(10, 101, dtype=dtype) if (threshold, fmt) == ("mse", "int16") else noise(50, 101, dtype=dtype)
    x[:, 5] = 0.0
    s = REFERENCE.probe(x).summary()
    error = s.quantization_error(fmt, threshold)
    if threshold == "max":
        assert error.threshold == s.absmax
    elif threshold in ("q0.999", "q0.9"):
        assert error.threshold == s.quantile(float(threshold[1:])) < s.absmax
    elif threshold != "mse":
        assert error.threshold == threshold
    assert_is_direct(error, x.double().flatten().numpy(), fmt)


@pytest.mark.parametrize("fmt", ["int8", "int4", *FP8])
def test_every_finite_bfloat16_at_once(fmt):
    x = from_bits(np.delete(np.arange(65536), np.r_[0x7F80:0x8000, 0xFF80:0x10000]), torch.bfloat16).view(-1, 16)
    s = REFERENCE.probe(x).summary()
    for threshold in (1.0, 3e38, 1e-30):
        assert_is_direct(s.quantization_error(fmt, threshold), x.double().flatten().numpy(), fmt)


def test_a_threshold_from_one_stream_judges_another():
    calibration, judged = noise(20, 64), 1.7 * noise(20, 64, seed=1)
    threshold = REFERENCE.probe(calibration).summary().quantile(0.99)
    error = REFERENCE.probe(judged).summary().quantization_error("int8", threshold)
    assert error.threshold == threshold and error.clip_rate > 0.01
    assert_is_direct(error, judged.double().flatten().numpy(), "int8")


@pytest.mark.parametrize("fmt", ["int2", "int4", "int8", *FP8])
def test_half_a_step_rounds_to_zero_and_the_next_magnitude_does_not(fmt):
    """Ties go to even; for each threshold whose half step is a bfloat16, that and both its neighbours."""
    smallest = {"fp8_e4m3": Fraction(1, 2**9), "fp8_e5m2": Fraction(1, 2**16)}.get(fmt, Fraction(1))
    top = Fraction(FP8[fmt][1]) if fmt in FP8 else Fraction(2 ** (int(fmt[3:]) - 1) - 1)
    ties = 0
    for threshold in from_bits(np.arange(0x4000, 0x4180), torch.bfloat16).tolist():
        half = torch.tensor(float(Fraction(threshold) * smallest / top / 2)).bfloat16()
        if Fraction(half.item()) != Fraction(threshold) * smallest / top / 2:
            continue
        ties += 1
        pattern = half.view(torch.int16).item()
        x = from_bits([0, pattern - 1, pattern, pattern + 1], torch.bfloat16).double().numpy()
        assert error_of(fmt, threshold, x, x, np.ones(4, np.int64)).zeroed == 2 / 3, threshold
    assert ties >= 3


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0, 3.0])
def test_a_tensor_on_the_grid_has_next_to_no_error(bits, scale):
    top = 2 ** (bits - 1) - 1
    x = (torch.arange(-top, top + 1) * scale).bfloat16()
    assert (x.double() == torch.arange(-top, top + 1) * scale).sum() >= 2 * top - 126
    x = x[x.double() == torch.arange(-top, top + 1) * scale]
    error = REFERENCE.probe(x).summary().quantization_error(f"int{bits}", top * scale)
    assert error.rel_rmse < 1e-15 and error.sqnr_db > 300 and error.clip_rate == 0 == error.zeroed


def test_a_tensor_of_one_magnitude_has_no_error():
    for fmt in FORMATS:
        error = REFERENCE.probe(torch.tensor([[0.3, -0.3]]).bfloat16()).summary().quantization_error(fmt)
        assert (error.sqnr_db, error.rel_rmse, error.rel_mae, error.clip_rate, error.zeroed) == (math.inf, 0, 0, 0, 0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_zeros_have_no_relative_error(fmt):
    error = REFERENCE.probe(torch.zeros(2, 4).bfloat16()).summary().quantization_error(fmt)
    assert all(map(math.isnan, (error.sqnr_db, error.rel_rmse, error.rel_mae, error.zeroed))) and error.clip_rate == 0


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_threshold_of_zero_makes_everything_zero(fmt):
    """A quantile can be 0: then every element saturates at 0."""
    x = torch.tensor([[0.0, 0.0, 0.0, 2.0, -4.0]]).bfloat16()
    error = REFERENCE.probe(x).summary().quantization_error(fmt, "q0.5")
    assert (error.threshold, error.scale, error.sqnr_db, error.rel_rmse, error.rel_mae) == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert (error.clip_rate, error.zeroed) == (0.4, 1.0)


def test_an_empty_stream_has_no_error():
    s = REFERENCE.stream([], 4, torch.bfloat16).summary()
    for threshold in ("max", "mse", 1.0, "q0.5"):
        error = s.quantization_error("int8", threshold)
        assert all(map(math.isnan, (error.sqnr_db, error.rel_rmse, error.rel_mae, error.clip_rate, error.zeroed)))


@pytest.mark.parametrize("fmt", ["int", "int1", "int17", "int08x", "fp8", "INT8", "int-8", "", "e4m3"])
def test_an_unknown_format_is_refused(fmt):
    with pytest.raises(ValueError, match="fmt: .*expected int2 to int16, fp8_e4m3 or fp8_e5m2"):
        REFERENCE.probe(noise(2, 4)).summary().quantization_error(fmt)


@pytest.mark.parametrize(
    "threshold", ["", "q", "qq", "q1.5", "q-1", "maximum", "0.5", 0, 0.0, -1.0, math.nan, math.inf, True]
)
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold: .*expected .*a positive number"):
        REFERENCE.probe(noise(2, 4)).summary().quantization_error("int8", threshold)

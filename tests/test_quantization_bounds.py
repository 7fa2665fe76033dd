"""float32 is counted in bins of relative width 2^-7: the error of the tensor itself lies within the bounds given."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import REFERENCE, law, noise, tensors
from test_quantization import FP8, quantized

FORMATS = ["int2", "int4", "int8", "int12", *FP8]


def true_db(x: np.ndarray, fmt: str, threshold: float) -> float:
    squares = np.square(quantized(x, fmt, threshold)[0] - x).sum()
    return 10 * math.log10(np.square(x).sum() / squares) if squares else math.inf


def assert_bounds_hold(error, x: np.ndarray, fmt: str) -> None:
    worst, best = error.sqnr_db_bounds
    true = true_db(x, fmt, error.threshold)
    assert worst <= error.sqnr_db <= best
    # 1e-5 dB for the roundings of the direct path, FP8's casts by way of float32 first of all.
    assert worst - 1e-5 <= true <= best + 1e-5 or true > 120, (worst, true, best)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("threshold", ["max", "q0.999", "q0.9", "mse", 1.0, 0.01, 500.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_hold_the_truth(fmt, threshold, seed):
    x = noise(30, 100, dtype=torch.float32, seed=seed)
    error = REFERENCE.probe(x).summary().quantization_error(fmt, threshold)
    assert not error.exact
    assert_bounds_hold(error, x.double().flatten().numpy(), fmt)


@law
@given(st.sampled_from(FORMATS), st.sampled_from(["max", "q0.5", "q0.9", "mse", 1.0]), st.data())
def test_the_bounds_hold_on_any_magnitudes(fmt, threshold, data):
    x = data.draw(tensors(dtype=torch.float32, tokens=(1, 6), finite=True))
    x = x.where(x.abs() > 1e-30, torch.tensor(0.5))  # squares of subnormals, and a threshold of 0, have no dB
    error = REFERENCE.probe(x).summary().quantization_error(fmt, threshold)
    assert_bounds_hold(error, x.double().flatten().numpy(), fmt)


def test_bounds_are_near_where_bins_are_narrow_beside_the_steps():
    """int4 steps of a seventh: a bin is at most a ninth of a step, so both bounds lie within some dB."""
    s = REFERENCE.probe(torch.randn(100, 100, generator=torch.Generator().manual_seed(0))).summary()
    error = s.quantization_error("int4", 2.0)
    assert error.sqnr_db_bounds[1] - error.sqnr_db_bounds[0] < 1.0


def test_the_worst_element_of_a_bin_may_lie_inside_it():
    """int16 with a step of 2^-10: bins of 1 to 2 begin and end beside the grid, but these elements lie between."""
    threshold = 32767 * 2.0**-10
    x = 1 + torch.arange(128).view(1, -1) / 128 + 2.0**-11
    error = REFERENCE.probe(x).summary().quantization_error("int16", threshold)
    assert_bounds_hold(error, x.double().flatten().numpy(), "int16")
    assert true_db(x.double().numpy(), "int16", threshold) < 72


def test_float32_zeros_are_not_taken_for_small_numbers():
    x = torch.tensor([[0.0, 0.0, 3.0, -3.0]])
    error = REFERENCE.probe(x).summary().quantization_error("int8", 4.0)
    assert error.zeroed == 0.0 and error.clip_rate == 0.0

"""threshold="mse" against trying every counted magnitude on the tensor itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import REFERENCE, law, noise, tensors
from test_quantization import FP8, quantized

FORMATS = ["int2", "int4", "int8", "int12", *FP8]


def errors_of_all(x: np.ndarray, fmt: str) -> tuple[np.ndarray, np.ndarray]:
    """(threshold, sum err^2) for every magnitude of x as threshold."""
    candidates = np.unique(np.abs(x[x != 0]))
    return candidates, np.array([np.square(quantized(x, fmt, t)[0] - x).sum() for t in candidates])


def assert_is_the_best(s, x: np.ndarray, fmt: str) -> None:
    candidates, squares = errors_of_all(x, fmt)
    found = s.quantization_error(fmt, "mse").threshold
    assert found in candidates
    # float64 sums in another order, and FP8's casts by way of float32: what is within that of the best ties with it.
    best, off = squares.min(), 1e-6 if fmt in FP8 else 1e-9
    assert squares[candidates == found][0] <= best * (1 + off) + 1e-25 * np.square(x).sum()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", ["one large feature", "normal", "uniform", "few values", "over many octaves"])
def test_no_counted_magnitude_has_a_smaller_squared_error(fmt, kind):
    g = torch.Generator().manual_seed(5)
    x = {
        "one large feature": lambda: noise(12, 50, seed=2),
        "normal": lambda: torch.randn(12, 50, generator=g),
        "uniform": lambda: torch.rand(12, 50, generator=g) - 0.5,
        "few values": lambda: torch.randint(-3, 4, (12, 50), generator=g) * 0.7,
        "over many octaves": lambda: torch.randn(12, 50, generator=g).exp().pow(4),
    }[kind]().bfloat16()  # fmt: skip
    assert_is_the_best(REFERENCE.probe(x).summary(), x.double().flatten().numpy(), fmt)


@law
@given(st.sampled_from(FORMATS), tensors(dtype=torch.bfloat16, finite=True) | tensors(dtype=torch.float16, finite=True))
def test_no_tensor_has_a_better_one(fmt, x):
    if (x != 0).any():
        assert_is_the_best(REFERENCE.probe(x).summary(), x.double().flatten().numpy(), fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_it_is_at_least_as_good_as_max_and_the_quantiles(fmt):
    s = REFERENCE.probe(noise(40, 200)).summary()
    best = s.quantization_error(fmt, "mse").sqnr_db
    for threshold in ("max", "q0.99", "q0.999", "q0.9999"):
        assert best >= s.quantization_error(fmt, threshold).sqnr_db


def test_of_equal_errors_the_largest_threshold_is_taken():
    # A lone magnitude beside zeros: int2 and threshold 2 are exact. With 1 and 3 once each, thresholds 1 and 3 of int2
    # err 2 on the one or 1 on the other; 3 it is. Powers of two on FP8 are exact for many.
    s = REFERENCE.probe(torch.tensor([[1.0, 2.0, 4.0, 8.0]]).bfloat16()).summary()
    error = s.quantization_error("fp8_e5m2", "mse")
    assert error.threshold == 8.0


def test_zeros_have_the_threshold_zero():
    assert REFERENCE.probe(torch.zeros(2, 3).bfloat16()).summary().quantization_error("int8", "mse").threshold == 0.0

"""Widths that no vector, block or warp divides, and those beside the ones they do."""

import pytest
import torch
from probes import EVERYTHING, REFERENCE, assert_agrees, every_dtype, every_kernel, noise

WIDTHS = [1, 2, 3, 5, 7, 13, 15, 16, 17, 31, 33, 127, 129, 255, 256, 257, 1021, 4093, 32771]


@every_kernel
@every_dtype
@pytest.mark.parametrize("d", WIDTHS)
def test_every_width_agrees_with_the_reference(place, dtype, d):
    x = noise(5, d, dtype=dtype, seed=d)
    assert_agrees(place.probe(x, **EVERYTHING), REFERENCE.probe(x, **EVERYTHING), x)


@every_kernel
@every_dtype
@pytest.mark.parametrize("d", WIDTHS)
def test_the_last_feature_counts_like_the_first(place, dtype, d):
    """A peak, the only zero and the only nan, each in the last place of a token."""
    x = torch.ones(3, d, dtype=dtype)
    x[0, -1], x[1, -1], x[2, -1] = -900.0, 0.0, float("nan")
    state = place.probe(x, **EVERYTHING, t_abs=100.0, t_ratio=100.0)
    assert_agrees(state, REFERENCE.probe(x, **EVERYTHING, t_abs=100.0, t_ratio=100.0), x)
    s = state.summary()
    assert (s.absmax, s.n_absmax, s.min, s.n_zero, s.n_nan) == (900.0, 1, -900.0, 1, 1)
    assert (s.topk.features[0], s.channel_absmax[-1], s.first_nonfinite) == (d - 1, 900.0, (2, d - 1))
    assert s.n_massive_elements == (1 if d > 1 else 0)

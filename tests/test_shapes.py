"""Empty and one-element tensors, and every number of leading axes."""

import math

import pytest
import torch
from probes import (
    EVERYTHING,
    REFERENCE,
    assert_agrees,
    assert_identical,
    every_backend,
    every_dtype,
    every_kernel,
    noise,
)

EMPTY = [(0,), (0, 5), (5, 0), (0, 0), (3, 0, 4), (0, 3, 4), (2, 3, 0)]


@every_backend
@every_dtype
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_an_empty_tensor_changes_nothing(place, dtype, shape):
    d = shape[-1]
    state = place.probe(noise(3, d, dtype=dtype), **EVERYTHING) if d else place.stream([], 0, dtype, **EVERYTHING)
    before = state.buffer.clone()
    x = torch.empty(shape, dtype=dtype)
    state.update(*place.move(x, torch.ones(shape[:-1], dtype=torch.bool), torch.ones(shape[:-1], dtype=torch.int64)))
    state.update(*place.move(x))
    assert torch.equal(state.buffer, before)
    assert_identical(place.probe(x, **EVERYTHING), place.stream([], d, dtype, **EVERYTHING))


@every_backend
@every_dtype
@pytest.mark.parametrize("d", [0, 1, 64])
def test_an_empty_state_has_zero_counts_and_nan_for_what_has_no_value(place, dtype, d):
    s = place.stream([], d, dtype, **EVERYTHING).summary()
    for name in ("n_elements n_tokens n_zero n_nan n_inf n_nonfinite_tokens n_absmax n_massive_tokens "
                 "n_massive_elements n_zero_median").split():  # fmt: skip
        assert getattr(s, name) == 0, name
    assert s.absmax == 0.0 and s.first_nonfinite is None and s.ratio_max_token is None
    for name in ("min max mean abs_mean rms std ratio_max ratio_max_absmax ratio_max_median peak_median peak_ratio "
                 "ratio_mean ratio_std").split():  # fmt: skip
        assert math.isnan(getattr(s, name)), name
    assert math.isnan(s.quantile(0.5)) and all(map(math.isnan, s.int8_per_token))
    assert [len(column) for column in s.topk] == [0, 0, 0]
    assert s.channel_absmax.tolist() == [0.0] * d and s.sample_absmax.tolist() == [0.0] * 3
    assert (s.counts.sum(), s.ratio_table.sum()) == (0, 0)


@every_backend
@every_dtype
@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("value", [-2.5, 0.0, 1e-7])
def test_one_element_is_a_whole_stream(place, dtype, shape, value):
    x = torch.full(shape, value, dtype=dtype)
    v = x.flatten()[0].item()
    s = place.probe(x, **EVERYTHING).summary()
    assert (s.n_elements, s.n_tokens, s.n_zero, s.n_absmax) == (1, 1, int(v == 0), 1)
    assert (s.absmax, s.min, s.max, s.quantile(0), s.quantile(1)) == (abs(v), v, v, abs(v), abs(v))
    assert s.mean == pytest.approx(v, rel=2**-24, abs=0)
    assert [column.tolist() for column in s.topk] == [[v], [0], [0]]
    assert s.peak_median == abs(v) and s.n_zero_median == 0
    if v:
        assert (s.ratio_max, s.ratio_max_token, s.ratio_mean, s.ratio_std) == (1.0, 0, 1.0, 0.0)
    else:
        assert math.isnan(s.ratio_max) and math.isnan(s.peak_ratio) and s.ratio_max_token is None
    for mask, n in ((torch.zeros(shape[:-1], dtype=torch.bool), 0), (torch.ones(shape[:-1], dtype=torch.bool), 1)):
        assert place.probe(x, mask, torch.zeros(shape[:-1], dtype=torch.int64)).summary().n_tokens == n


@every_backend
@every_dtype
def test_a_vector_is_one_token(place, dtype):
    x = noise(1, 37, dtype=dtype)
    assert_identical(place.probe(x[0], **EVERYTHING), place.probe(x, **EVERYTHING))
    one = place.probe(x[0], torch.tensor(True), torch.tensor(5), **EVERYTHING)
    assert_identical(one, place.probe(x, token_ids=torch.tensor([5]), **EVERYTHING))


@every_kernel
@every_dtype
@pytest.mark.parametrize("shape", [(24, 1), (1, 24), (2, 12, 1), (2, 3, 4, 5), (2, 1, 3, 1, 2, 7), (1000, 2)], ids=str)
def test_backends_agree_on_every_number_of_axes(place, dtype, shape):
    x = noise(*shape, dtype=dtype)
    state = place.probe(x, **EVERYTHING)
    assert_agrees(state, REFERENCE.probe(x, **EVERYTHING), x)
    assert_identical(state, place.probe(x.reshape(-1, shape[-1]), **EVERYTHING))


@every_kernel
def test_more_than_2_to_the_31_elements(place):
    row = noise(1, 1 << 11)
    n = (1 << 20) + 3
    x = row.to(place.device).expand(n, -1)  # no memory
    s, one = place.probe(x).summary(), REFERENCE.probe(row).summary()
    assert s.n_elements == x.numel() > 2**31
    assert (s.n_tokens, s.n_absmax, s.n_zero) == (n, n * one.n_absmax, n * one.n_zero)
    assert (s.counts == n * one.counts).all()
    assert s.topk.token_ids.tolist() == list(range(100)) and s.ratio_max_token == 0
    assert s.mean == pytest.approx(one.mean, abs=17 * 2**-24 * one.abs_mean, rel=0)

"""Nan and inf are counted and located, and touch nothing else; the finite elements beside them still count."""

import math

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
    infinity_bits,
    noise,
    sign_bit,
    smallest_normal_bits,
)


def infected(dtype: torch.dtype, rows: int = 12, d: int = 37) -> torch.Tensor:
    """Noise with nans of every kind of payload, infinities of both signs and two tokens of nothing else."""
    infinity, sign, normal = infinity_bits(dtype), sign_bit(dtype), smallest_normal_bits(dtype)
    x = noise(rows, d, dtype=dtype)
    kinds = [infinity, infinity + 1, infinity + normal // 2, sign - 1]
    kinds += [sign | kind for kind in (infinity, infinity + 1, sign - 1)]
    for row, kind in enumerate(kinds):
        x[row, (5 * row + 3) % d] = from_bits(kind, dtype)
    x[8], x[9, 1:] = math.nan, -math.inf
    return x


@every_kernel
@every_dtype
def test_backends_agree_on_every_kind_of_nonfinite_value(place, dtype):
    x = infected(dtype)
    for options in (EVERYTHING, dict(topk=1024), dict(topk=1, counts=False, medians=False)):
        assert_agrees(place.probe(x, **options), REFERENCE.probe(x, **options), x)


@every_backend
@every_dtype
def test_nan_and_inf_are_told_apart_by_their_bits(place, dtype):
    x = infected(dtype)
    s = place.probe(x).summary()
    assert s.n_nan == x.isnan().sum() == 5 + 37
    assert s.n_inf == x.isinf().sum() == 2 + 36
    assert s.n_elements == x.numel() - s.n_nan - s.n_inf == s.counts.sum()
    assert (s.n_tokens, s.n_nonfinite_tokens) == (12, 9)


@every_backend
@every_dtype
def test_finite_elements_of_such_tokens_still_count(place, dtype):
    x = torch.tensor([[1.0, 2.0, 3.0], [math.nan, -50.0, 0.0], [4.0, math.inf, -0.5]], dtype=dtype)
    s = place.probe(x, token_ids=torch.tensor([0, 1 << 32, 2 << 32]), **EVERYTHING).summary()
    assert (s.absmax, s.n_absmax, s.min, s.max, s.n_zero, s.n_elements) == (50.0, 1, -50.0, 4.0, 1, 7)
    assert s.mean == (1 + 2 + 3 - 50 + 0 + 4 - 0.5) / 7
    assert s.topk.values.tolist() == [-50.0, 4.0, 3.0, 2.0, 1.0, -0.5, 0.0]
    assert s.channel_absmax.tolist() == [4.0, 50.0, 3.0]
    assert s.sample_absmax.tolist() == [3.0, 50.0, 4.0]


@every_backend
@every_dtype
def test_such_tokens_take_no_part_in_per_token_statistics(place, dtype):
    token = torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype)
    sick = torch.tensor([[0.5, 60000.0, math.nan], [-math.inf, 60000.0, 0.0]], dtype=dtype)
    both, alone = (place.probe(x, **EVERYTHING, t_ratio=2.0) for x in (torch.cat((token, sick)), token))
    for name in alone.fields:
        if name.startswith(("ratio", "peak", "int8", "n_massive", "n_ratios", "n_zero_median")):
            assert torch.equal(both.fields[name], alone.fields[name]), name
    assert both.summary().n_massive_elements == 0


@every_backend
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]], ids=str)
def test_the_first_nonfinite_is_that_of_the_smallest_id_then_feature(place, order):
    x = torch.ones(3, 8)
    x[0, 6], x[1, 5], x[1, 2], x[2, 0] = math.nan, math.nan, -math.inf, math.inf
    ids = torch.tensor([7, 3, 9])
    state = place.stream([(x[i : i + 1], None, ids[i : i + 1]) for i in order], 8, torch.float32)
    assert state.summary().first_nonfinite == (3, 2)
    assert place.probe(x[order], token_ids=ids[order]).summary().first_nonfinite == (3, 2)


@every_backend
@every_dtype
@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf])
def test_a_stream_without_a_finite_element_has_no_extremes(place, dtype, fill):
    s = place.probe(torch.full((4, 9), fill, dtype=dtype), **EVERYTHING).summary()
    assert (s.n_elements, s.n_tokens, s.n_nonfinite_tokens, s.n_nan + s.n_inf) == (0, 4, 4, 36)
    assert s.first_nonfinite == (0, 0)
    assert (s.absmax, s.n_absmax, len(s.topk.values), s.counts.sum(), s.ratio_table.sum()) == (0.0, 0, 0, 0, 0)
    for name in "min max mean std rms abs_mean ratio_max ratio_mean peak_median peak_ratio".split():
        assert math.isnan(getattr(s, name)), name
    assert math.isnan(s.quantile(0.5)) and math.isnan(s.int8_per_token.sqnr_db)


@every_backend
@every_dtype
def test_one_bad_element_in_the_last_place_of_a_long_token_is_seen(place, dtype):
    for d in (1, 255, 256, 257, 4096):
        x = torch.ones(3, d, dtype=dtype)
        x[1, -1] = math.inf
        s = place.probe(x).summary()
        assert (s.n_inf, s.n_nonfinite_tokens, s.first_nonfinite, s.n_elements) == (1, 1, (1, d - 1), 3 * d - 1)

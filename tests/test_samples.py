"""The largest |x|, the tokens and the massive tokens of each sample; a token's sample is the upper half of its id."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import every_backend, every_dtype, ids_for, law, masks_for, noise, tensors


@every_backend
@every_dtype
def test_sample_absmax_is_the_largest_over_the_tokens_of_each_sample(place, dtype):
    x = noise(30, 17, dtype=dtype)
    samples = torch.arange(30) * 7 % 5
    mask = samples != 3
    s = place.probe(x, mask, samples << 32 | torch.arange(30), n_samples=6).summary()
    expected = [x[samples == i].abs().max().item() if i != 3 else 0.0 for i in range(5)] + [0.0]
    assert s.sample_absmax.tolist() == expected and s.sample_absmax.dtype.name == "float32"


@every_backend
@every_dtype
@law
@given(st.data())
def test_the_tokens_and_massive_tokens_of_a_sample_are_those_of_a_state_that_saw_it_alone(place, dtype, data):
    x = data.draw(tensors(dtype))
    ids, mask = data.draw(ids_for(len(x))), data.draw(masks_for(len(x)))
    options = dict(topk=3, t_abs=0.5, t_ratio=2.0)
    s = place.probe(x, mask, ids, n_samples=3, **options).summary()
    alone = [place.probe(x, mask & (ids >> 32 == i), ids, **options).summary() for i in range(3)]
    assert s.sample_tokens.tolist() == [a.n_tokens for a in alone]
    assert s.sample_massive.tolist() == [a.n_massive_tokens for a in alone]
    assert s.sample_absmax.tolist() == [a.absmax for a in alone]
    assert s.sample_tokens.sum() == s.n_tokens and s.sample_massive.sum() == s.n_massive_tokens


@every_backend
def test_a_token_that_is_not_finite_counts_as_a_token_and_never_as_massive(place):
    x = torch.tensor([[9.0, 1.0, 1.0], [9.0, 1.0, math.nan], [9.0, math.inf, 1.0]])
    ids = torch.tensor([0, 0, 1 << 32])
    s = place.probe(x, token_ids=ids, n_samples=2, t_abs=2.0, t_ratio=3.0).summary()
    assert (s.sample_tokens.tolist(), s.sample_massive.tolist()) == ([2, 1], [1, 0])
    assert s.sample_tokens.dtype.name == s.sample_massive.dtype.name == "int64"


@every_backend
def test_a_token_whose_sample_is_out_of_range_counts_in_none(place):
    x = torch.tensor([[9.0, 1.0, 1.0], [9.0, 1.0, 1.0]])
    state = place.probe(x, token_ids=torch.tensor([1 << 32, -1]), n_samples=2, t_abs=2.0, t_ratio=3.0)
    assert state.fields["n_massive_tokens"].item() == 2
    assert [state.fields[name].tolist() for name in ("sample_tokens", "sample_massive")] == [[0, 1], [0, 1]]


@every_backend
def test_the_lower_half_of_an_id_may_be_anything(place):
    ids = torch.tensor([(1 << 32) | 0xFFFFFFFF, 0, 1 << 32])
    s = place.probe(torch.tensor([[3.0], [1.0], [2.0]]), token_ids=ids, n_samples=2).summary()
    assert s.sample_absmax.tolist() == [1.0, 3.0]


@every_backend
@pytest.mark.parametrize("token", [2 << 32, -1, 2**63 - 1, -(2**63)])
def test_a_sample_out_of_range_is_counted_and_the_summary_refuses(place, token):
    state = place.probe(torch.ones(3, 4), token_ids=torch.tensor([0, token, 1 << 32]), n_samples=2)
    state.update(*place.move(torch.ones(1, 4), None, torch.tensor([token])))
    assert state.fields["n_outside_samples"].item() == 2
    with pytest.raises(ValueError, match=r"token_ids: 2 tokens name a sample outside 0 \.\. 1"):
        state.summary()
    assert state.fields["sample_absmax"].tolist() == [1.0, 1.0]


@every_backend
def test_a_token_behind_the_mask_may_name_any_sample(place):
    mask, ids = torch.tensor([True, False]), torch.tensor([0, -1])
    assert place.probe(torch.ones(2, 4), mask, ids, n_samples=1).summary().sample_absmax.tolist() == [1.0]


@every_backend
def test_without_n_samples_any_id_is_welcome(place):
    s = place.probe(torch.ones(1, 4), token_ids=torch.tensor([-5])).summary()
    assert s.topk.token_ids.tolist() == [-5] * 4

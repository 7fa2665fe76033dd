"""Tokens that nobody names are numbered as they arrive, those that a mask hides not counted."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import EVERYTHING, assert_identical, every_backend, law, masks_for, noise, tensors


@every_backend
@law
@given(st.data())
def test_default_ids_are_the_order_of_arrival(place, data):
    x = data.draw(tensors())
    cut = data.draw(st.integers(0, len(x)))
    named = place.probe(x, token_ids=torch.arange(len(x)), **EVERYTHING)
    assert_identical(place.probe(x, **EVERYTHING), named)
    assert_identical(place.stream([(x[:cut],), (x[cut:],)], x.shape[-1], x.dtype, **EVERYTHING), named)


@every_backend
@law
@given(st.data())
def test_hidden_tokens_take_no_number(place, data):
    x = data.draw(tensors())
    mask = data.draw(masks_for(len(x)))
    cut = data.draw(st.integers(0, len(x)))
    named = place.probe(x[mask], token_ids=torch.arange(int(mask.sum())), **EVERYTHING)
    batches = [(x[:cut], mask[:cut]), (x[cut:], mask[cut:])]
    assert_identical(place.stream(batches, x.shape[-1], x.dtype, **EVERYTHING), named)


@every_backend
def test_leading_axes_are_numbered_in_row_major_order(place):
    x = noise(2, 3, 4, 8)
    x[1, 2, 0, 5] = 9e9
    assert place.probe(x).summary().topk.token_ids[0] == (1 * 3 + 2) * 4


@every_backend
def test_numbering_goes_on_after_a_merge_from_the_tokens_of_both(place):
    state = place.probe(noise(5, 8))
    state.merge(place.probe(noise(7, 8, seed=1)))
    state.update(*place.move(torch.full((1, 8), 9e9).bfloat16()))
    assert state.summary().topk.token_ids[0] == 12

"""Tokens that the mask hides do not exist, whatever they hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import (
    EVERYTHING,
    assert_identical,
    every_backend,
    every_dtype,
    from_bits,
    ids_for,
    infinity_bits,
    law,
    noise,
    tensors,
)


def padded(data, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x with rows of nan, inf and the largest value put in at drawn places, and the mask that hides them."""
    mask = torch.tensor(data.draw(st.permutations([True] * len(x) + [False] * data.draw(st.integers(1, 5)))))
    hidden = data.draw(st.sampled_from([0, 1, -1]))
    full = from_bits(infinity_bits(x.dtype) + hidden, x.dtype).expand(len(mask), x.shape[-1]).clone()
    full[mask] = x
    return full, mask


@every_backend
@law
@given(st.data())
def test_padding_behind_the_mask_equals_no_padding(place, data):
    x = data.draw(tensors())
    ids = data.draw(ids_for(len(x)))
    full, mask = padded(data, x)
    full_ids = torch.full((len(mask),), -1)  # no sample has the number -1
    full_ids[mask] = ids
    assert_identical(place.probe(full, mask, full_ids, **EVERYTHING), place.probe(x, token_ids=ids, **EVERYTHING))


@every_backend
@law
@given(st.data())
def test_padding_behind_the_mask_equals_no_padding_with_default_ids(place, data):
    x = data.draw(tensors())
    full, mask = padded(data, x)
    assert_identical(place.probe(full, mask, **EVERYTHING), place.probe(x, **EVERYTHING))


@every_backend
@every_dtype
def test_a_mask_of_zeros_changes_nothing(place, dtype):
    x = noise(6, 10, dtype=dtype)
    state = place.probe(x, **EVERYTHING)
    before = state.buffer.clone()
    hidden = x.clone()
    hidden[::2] = math.nan
    state.update(*place.move(hidden, torch.zeros(6, dtype=torch.bool), torch.arange(6)))
    state.update(*place.move(hidden, torch.zeros(6, dtype=torch.bool)))
    assert torch.equal(state.buffer, before)


@every_backend
@every_dtype
def test_a_first_update_behind_a_mask_of_zeros_leaves_the_state_empty(place, dtype):
    x = torch.full((6, 10), math.inf, dtype=dtype)
    state = place.probe(x, torch.zeros(6, dtype=torch.bool), **EVERYTHING)
    assert_identical(state, place.stream([], 10, dtype, **EVERYTHING))


@every_backend
def test_a_mask_of_ones_equals_no_mask(place):
    x = noise(4, 5, 16)
    assert_identical(place.probe(x, torch.ones(4, 5, dtype=torch.bool)), place.probe(x))


@every_backend
@pytest.mark.parametrize(
    "view",
    [lambda t: t.T, lambda t: t[::2, ::3], lambda t: t[:1].expand(6, -1), lambda t: t[1:, 2:]],
    ids=["transposed", "strided", "expanded", "offset"],
)
def test_a_mask_and_ids_may_have_any_strides(place, view):
    kept = torch.rand(8, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    ids = torch.arange(96).view(8, 12).flip(0)
    mask, ids = (view(t) for t in place.move(kept, ids))
    x = noise(*mask.shape, 10).to(place.device)
    strided = place.probe(x, mask, ids, topk=20)
    assert_identical(strided, place.probe(x, mask.contiguous(), ids.contiguous(), topk=20))
    assert 0 < strided.summary().n_tokens < mask.numel()


@every_backend
def test_any_nonzero_byte_of_a_bool_is_true(place):
    x = noise(4, 8)
    mask = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).view(torch.bool)
    assert_identical(place.probe(x, mask), place.probe(x[1:]))

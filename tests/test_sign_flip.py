"""Changing every sign swaps minimum and maximum and negates the sum and the top values; nothing else moves."""

from hypothesis import given
from hypothesis import strategies as st
from probes import EVERYTHING, assert_identical, every_backend, law, tensors


@every_backend
@law
@given(st.data())
def test_a_sign_flip_swaps_min_and_max(place, data):
    x = data.draw(tensors())
    flipped, state = place.probe(-x, **EVERYTHING), place.probe(x, **EVERYTHING)
    fields = flipped.fields
    fields["max"], fields["neg_min"] = fields["neg_min"], fields["max"]
    fields["sum"].neg_()
    fields["topk_values"].copy_(-fields["topk_values"])  # nan, in an empty place, loses its sign to the comparison
    fields["topk_values"].nan_to_num_(nan=0.0), state.fields["topk_values"].nan_to_num_(nan=0.0)
    assert_identical(flipped, state)


@every_backend
def test_zeros_of_either_sign_have_the_extremes_plus_zero(place):
    import torch

    for zeros in ([0.0, -0.0], [-0.0, -0.0], [0.0, 0.0]):
        s = place.probe(torch.tensor([zeros])).summary()
        assert (str(s.min), str(s.max), str(s.absmax), s.n_absmax) == ("0.0", "0.0", "0.0", 2)

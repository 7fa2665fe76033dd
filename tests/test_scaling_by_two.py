"""Doubling every element doubles every magnitude and moves no ratio, rank or count."""

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from probes import (
    bits,
    every_backend,
    every_dtype,
    from_bits,
    infinity_bits,
    law,
    sign_bit,
    smallest_normal_bits,
    tensors,
)

DOUBLED = ("absmax", "max", "neg_min", "channel_absmax", "sample_absmax", "topk_values", "peak_absmax", "peak_median",
           "ratio_max_absmax", "ratio_max_median")  # fmt: skip
SHIFTED = ("sum", "counts", "ratio_table", "int8_square_sum", "int8_abs_sum", "int8_error_square_sum",
           "int8_error_abs_sum")  # fmt: skip


@every_backend
@every_dtype
@law
@given(st.data())
def test_doubling_moves_exponents_only(place, dtype, data):
    normal = smallest_normal_bits(dtype)
    x = data.draw(tensors(dtype, finite=True, largest=infinity_bits(dtype) - 2 * normal))
    magnitudes = bits(x) & (sign_bit(dtype) - 1)
    if dtype == torch.float32:  # its cells of counts hold 2^16 subnormals, and doubling tears them apart
        x = torch.where(magnitudes < normal, 0.0, x)
    # Rows that reach so much are summed another way, with other roundings.
    limit = {"cuda": 2.0**21, "triton": 2.0**100}.get(place.backend, math.inf)
    assume(not ((x.abs() >= limit / 2) & (x.abs() < limit)).any())
    options = dict(topk=7, n_samples=1, int8_per_token=True, t_abs=0.0, t_ratio=3.0)
    once, twice = place.probe(x, **options), place.probe(x * 2, **options)
    assume(x.numel())

    for name in once.fields.keys() - {*DOUBLED, *SHIFTED}:
        assert torch.equal(bits(twice.fields[name]), bits(once.fields[name])), name
    for name in DOUBLED:
        assert torch.equal(bits(twice.fields[name]), bits(once.fields[name].cpu() * 2)), (
            name
        )  # a GPU has nans of its own
    for name, places in (("sum", 1), ("int8_abs_sum", 1), ("int8_error_abs_sum", 1), ("int8_square_sum", 2),
                         ("int8_error_square_sum", 2)):  # fmt: skip
        assert torch.equal(twice.fields[name], once.fields[name].roll(places)), name

    keys = once.fields["counts"].nonzero().flatten().cpu()
    if dtype == torch.float32:
        keys_twice = torch.where(keys == 0, 0, keys + (normal >> 16))
    else:
        keys_twice = bits(from_bits(keys.numpy(), dtype) * 2).long()
    expected = torch.zeros(32768, dtype=torch.int64).index_add_(0, keys_twice, once.fields["counts"].cpu()[keys])
    assert torch.equal(twice.fields["counts"].cpu(), expected)


@every_backend
def test_doubling_moves_tokens_four_rows_down_the_ratio_table(place):
    x = torch.tensor([[1.0, 3.0, 2.0], [0.25, 0.25, 7.0], [5.0, 0.0, 0.0]])
    once, twice = (place.probe(t).fields["ratio_table"].cpu() for t in (x, 2 * x))
    assert torch.equal(twice, once.roll(4, 0)) and once.sum() == 3

"""k from 1 to 1024, over few elements and many updates."""

import pytest
import torch
from probes import REFERENCE, assert_agrees, every_backend, every_dtype, every_kernel, noise


@every_kernel
@every_dtype
@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 100, 127, 128, 129, 512, 1000, 1023, 1024])
def test_every_k_gives_the_references_list(place, dtype, k):
    x = noise(40, 50, dtype=dtype, seed=k)
    assert_agrees(place.probe(x, topk=k), REFERENCE.probe(x, topk=k), x)


@every_backend
@every_dtype
def test_the_list_holds_everything_where_k_exceeds_the_elements(place, dtype):
    x = torch.tensor([[1.0, -2.0], [0.0, -0.0]], dtype=dtype)
    top = place.probe(x, topk=1024).summary().topk
    assert top.values.tolist() == [-2.0, 1.0, 0.0, 0.0]
    assert top.token_ids.tolist() == [0, 0, 1, 1] and top.features.tolist() == [1, 0, 0, 1]
    assert torch.from_numpy(top.values).signbit().tolist() == [True, False, False, True]
    assert [column.dtype.name for column in top] == ["float32", "int64", "int64"]


@every_kernel
@every_dtype
def test_the_list_grows_over_updates_until_it_is_full(place, dtype):
    x = noise(30, 7, dtype=dtype)
    for n in (1, 9, 14, 15, 30):  # 100 elements are 14.3 tokens
        batches = [(x[i : i + 1],) for i in range(n)]
        states = [where.stream(batches, 7, dtype, topk=100) for where in (place, REFERENCE)]
        assert_agrees(*states, x[:n])
        assert len(states[0].summary().topk.values) == min(100, 7 * n)


@every_backend
def test_token_ids_of_64_bits_are_kept_and_ordered(place):
    ids = torch.tensor([2**62 + 1, -(2**63), 2**62, 5])
    s = place.probe(torch.ones(4, 1), token_ids=ids).summary()
    assert s.topk.token_ids.tolist() == sorted(ids.tolist())
    assert s.ratio_max_token == -(2**63)


@every_backend
def test_the_largest_id_is_a_name_like_any_other(place):
    largest = 2**63 - 1
    x = torch.tensor([[1.0, 3.0, float("nan")], [1.0, 2.0, 8.0]])
    s = place.probe(x, token_ids=torch.tensor([largest] * 2)).summary()
    assert s.first_nonfinite == (largest, 2)
    assert s.topk.values.tolist() == [8.0, 3.0, 2.0, 1.0, 1.0] and set(s.topk.token_ids.tolist()) == {largest}
    assert (s.ratio_max_token, s.ratio_max) == (largest, 4.0)

"""Equal magnitudes, normal in 16 bits: counted exactly, and told apart in the top-k by token, then feature."""

import pytest
import torch
from probes import REFERENCE, assert_agrees, assert_identical, every_backend, every_dtype, every_kernel


def ranked(x: torch.Tensor, k: int) -> list[tuple[float, int, int]]:
    """(value, token, feature) of the first k by (|x| descending, token, feature): a plain sort."""
    rows = [(-abs(v), t, f, v) for t, row in enumerate(x.float().tolist()) for f, v in enumerate(row)]
    return [(v, t, f) for _, t, f, v in sorted(rows)[:k]]


def top(summary) -> list[tuple[float, int, int]]:
    return list(zip(*(column.tolist() for column in summary.topk), strict=True))


@every_backend
@every_dtype
@pytest.mark.parametrize("k", [1, 7, 12, 13, 60, 100])
def test_where_all_are_equal_the_first_tokens_and_features_are_the_top(place, dtype, k):
    x = torch.full((5, 12), -3.0, dtype=dtype)
    s = place.probe(x, topk=k).summary()
    assert (s.absmax, s.n_absmax) == (3.0, 60)
    assert top(s) == [(-3.0, i // 12, i % 12) for i in range(min(k, 60))]


@every_backend
@every_dtype
def test_magnitudes_tie_whatever_the_sign(place, dtype):
    x = torch.tensor([[-5.0, 5.0, 1.0], [5.0, -1.0, -5.0]], dtype=dtype)
    s = place.probe(x, topk=5).summary()
    assert (s.n_absmax, s.min, s.max) == (4, -5.0, 5.0)
    assert top(s) == [(-5.0, 0, 0), (5.0, 0, 1), (5.0, 1, 0), (-5.0, 1, 2), (1.0, 0, 2)]


@every_backend
@every_dtype
@pytest.mark.parametrize("k", [1, 2, 5, 20, 33, 64, 199, 1024])
def test_k_may_cut_through_ties(place, dtype, k):
    x = torch.randint(-3, 4, (20, 31), generator=torch.Generator().manual_seed(k)).to(dtype)
    expected = ranked(x, k)
    assert top(place.probe(x, topk=k).summary()) == expected
    backwards = place.stream([(x[i : i + 1], None, torch.tensor([i])) for i in reversed(range(20))], 31, dtype, topk=k)
    assert top(backwards.summary()) == expected


@every_kernel
@every_dtype
@pytest.mark.parametrize("k", [1, 100, 1000, 1024])
@pytest.mark.parametrize("order", ["ascending", "descending", "constant", "two values"])
def test_an_adversarial_order_changes_no_bit(place, dtype, k, order):
    values = {
        "ascending": torch.arange(6400) // 3,
        "descending": 6400 - torch.arange(6400) // 3,
        "constant": torch.full((6400,), 8),
        "two values": torch.arange(6400) % 2 + 1,
    }[order]
    x = values.to(dtype).view(-1, 64)
    assert_agrees(place.probe(x, topk=k), REFERENCE.probe(x, topk=k), x)
    backwards = torch.arange(len(x)).flip(0)
    assert_agrees(place.probe(x, token_ids=backwards, topk=k), REFERENCE.probe(x, token_ids=backwards, topk=k), x)


@every_backend
def test_n_absmax_counts_ties_over_updates_and_forgets_smaller_ones(place):
    batches = [torch.tensor([row]) for row in ([2.0, 2.0], [-3.0, 1.0], [3.0, 3.0], [2.0, -3.0], [1.0, 1.0])]
    seen = []
    for n in range(1, 6):
        s = place.stream([(x,) for x in batches[:n]], 2, torch.float32).summary()
        seen.append((s.absmax, s.n_absmax))
    assert seen == [(2.0, 2), (3.0, 1), (3.0, 3), (3.0, 4), (3.0, 4)]


@every_backend
def test_ties_of_ratio_and_peak_go_to_the_smallest_token(place):
    x = torch.tensor([[1.0, 1.0, 8.0], [2.0, 2.0, 16.0], [4.0, 16.0, 1.0], [0.5, 4.0, 0.5]])
    ids = torch.tensor([9, 4, 3, 5])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        s = place.probe(x[order], token_ids=ids[order]).summary()
        assert (s.ratio_max, s.ratio_max_token, s.ratio_max_absmax, s.ratio_max_median) == (8.0, 4, 16.0, 2.0)
        assert (s.peak_median, s.peak_ratio) == (4.0, 4.0)  # token 3, before token 4 with the same peak


@every_backend
def test_elements_that_share_a_coordinate_are_ordered_by_magnitude_then_sign(place):
    x = torch.tensor([[4.0, 1.0], [-4.0, 1.0], [5.0, -1.0]])
    ids = torch.tensor([6, 6, 6])
    one = place.probe(x, token_ids=ids, topk=4)
    assert one.summary().topk.values.tolist() == [5.0, 4.0, -4.0, 1.0]
    assert_identical(place.probe(x.flip(0), token_ids=ids, topk=4), one)


@every_backend
def test_a_token_that_comes_again_may_hold_a_smaller_feature(place):
    x, ids = torch.zeros(2, 1, 5), torch.tensor([3])
    x[0, 0, 4], x[1, 0, 2] = 7.0, 7.0
    for order in ([0, 1], [1, 0]):
        top = place.stream([(x[i], None, ids) for i in order], 5, torch.float32, topk=1).summary().topk
        assert [column.tolist() for column in top] == [[7.0], [3], [2]]

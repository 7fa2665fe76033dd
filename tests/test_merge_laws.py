"""Splitting, merging, order: however a stream is cut up, the state that has seen all of it has the same bits."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import EVERYTHING, REFERENCE, assert_agrees, assert_identical, every_backend, ids_for, law, noise, tensors


def pieces(data, x: torch.Tensor, *others: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """x and the others cut at the same drawn places; pieces may be empty."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    edges = [0, *cuts, len(x)]
    return [tuple(t[a:b] for t in (x, *others)) for a, b in zip(edges, edges[1:], strict=False)]


@every_backend
@law
@given(st.data())
def test_updates_in_pieces_equal_one_update(place, data):
    x = data.draw(tensors())
    ids = data.draw(ids_for(len(x)))
    batches = [(part, None, part_ids) for part, part_ids in pieces(data, x, ids)]
    together = place.probe(x, token_ids=ids, **EVERYTHING)
    assert_identical(place.stream(batches, x.shape[-1], x.dtype, **EVERYTHING), together)


@every_backend
@law
@given(st.data())
def test_merge_in_any_grouping_and_order_equals_seeing_everything_at_once(place, data):
    x = data.draw(tensors())
    ids = data.draw(ids_for(len(x)))
    states = [place.probe(part, token_ids=part_ids, **EVERYTHING) for part, part_ids in pieces(data, x, ids)]
    while len(states) > 1:
        into = states.pop(data.draw(st.integers(0, len(states) - 1)))
        other = states.pop(data.draw(st.integers(0, len(states) - 1)))
        untouched = other.buffer.clone()
        into.merge(other)
        assert torch.equal(other.buffer, untouched)
        states.append(into)
    assert_identical(states[0], place.probe(x, token_ids=ids, **EVERYTHING))


@every_backend
@law
@given(st.data())
def test_a_state_goes_on_after_a_merge(place, data):
    x = data.draw(tensors(tokens=(2, 6)))
    ids = data.draw(ids_for(len(x)))
    state = place.probe(x[1:2], token_ids=ids[1:2], **EVERYTHING)
    state.merge(place.probe(x[:1], token_ids=ids[:1], **EVERYTHING))
    state.update(*place.move(x[2:], None, ids[2:]))
    assert_identical(state, place.probe(x, token_ids=ids, **EVERYTHING))


@every_backend
@law
@given(st.data())
def test_the_order_of_tokens_that_have_names_does_not_matter(place, data):
    x = data.draw(tensors())
    ids = data.draw(ids_for(len(x)))
    order = torch.tensor(data.draw(st.permutations(range(len(x)))), dtype=torch.int64)
    shuffled = place.probe(x[order], token_ids=ids[order], **EVERYTHING)
    assert_identical(shuffled, place.probe(x, token_ids=ids, **EVERYTHING))


@every_backend
@law
@given(st.data())
def test_an_empty_state_merges_as_nothing(place, data):
    x = data.draw(tensors())
    ids = data.draw(ids_for(len(x)))
    seen = place.probe(x, token_ids=ids, **EVERYTHING)
    left = place.stream([], x.shape[-1], x.dtype, **EVERYTHING)
    left.merge(seen)
    assert_identical(left, seen)
    seen.merge(place.stream([], x.shape[-1], x.dtype, **EVERYTHING))
    assert_identical(seen, left)


@every_backend
def test_merging_a_state_into_itself_counts_everything_twice(place):
    x = noise(5, 12)
    twice = place.probe(torch.cat((x, x)), token_ids=torch.arange(5).repeat(2), **EVERYTHING)
    state = place.probe(x, **EVERYTHING)
    state.merge(state)
    assert_identical(state, twice)


@every_backend
def test_states_of_different_backends_merge(place):
    x, ids = noise(8, 50), torch.arange(8)
    state = place.probe(x[:4], token_ids=ids[:4], **EVERYTHING)
    state.merge(REFERENCE.probe(x[4:], token_ids=ids[4:], **EVERYTHING))
    assert_agrees(state, REFERENCE.probe(x, token_ids=ids, **EVERYTHING), x)

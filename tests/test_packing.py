"""Packed rows: where position_ids go back to 0 a new sample begins, named as if it had a row of its own."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EMBEDDING, PAD, assert_same_bits, buffers, grid, ids_of, one_thread, random_ids, tiny  # noqa: F401

from maxact.hooks import attach
from maxact_kernels import fused_probe

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (3, 1, 4)


def packed(*lengths: int) -> torch.Tensor:
    return torch.cat([torch.arange(n) for n in lengths])[None]


def test_packed_samples_have_the_bits_of_samples_in_rows_of_their_own():
    """Of the embedding, which sees no neighbours."""
    model, ids = tiny("llama"), random_ids(1, sum(LENGTHS))
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024, n_samples=3) as one_row:
        model(ids, position_ids=packed(*LENGTHS))
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024, n_samples=3) as rows:
        for sample in ids.split(LENGTHS, dim=1):
            model(sample)
    assert ids_of(one_row) == [(s, p) for s, n in enumerate(LENGTHS) for p in range(n)]
    assert_same_bits(buffers(one_row), buffers(rows))


def test_every_site_of_a_packed_row_is_that_of_its_tensors_named_by_hand():
    model, ids, position_ids = tiny("llama"), random_ids(1, sum(LENGTHS)), packed(*LENGTHS)
    names = torch.tensor([[s << 32 | p for s, n in enumerate(LENGTHS) for p in range(n)]])
    with torch.no_grad(), attach(model, n_samples=3) as probe:
        hidden = model(ids, position_ids=position_ids, output_hidden_states=True).hidden_states
    sites = ("embedding_output", "layer_0_hidden", "layer_1_hidden", "final_layernorm")
    expected = {site: fused_probe(x, token_ids=names, n_samples=3).buffer for site, x in zip(sites, hidden)}
    assert_same_bits({site: probe.states[site].buffer for site in sites}, expected)


def test_packed_samples_have_the_residual_stream_of_samples_on_their_own():
    """A model keeps packed samples apart, so that their values agree up to rounding: the names are right."""
    model, ids = tiny("llama"), random_ids(1, sum(LENGTHS))
    with torch.no_grad(), attach(model, n_samples=3) as one_row:
        model(ids, position_ids=packed(*LENGTHS), use_cache=False)
    with torch.no_grad(), attach(model, n_samples=3) as rows:
        for sample in ids.split(LENGTHS, dim=1):
            model(sample)
    for name, state in one_row.states.items():
        mine, theirs = state.summary(), rows.states[name].summary()
        # float32 sums of at most 96 products, three layers deep
        assert torch.allclose(torch.tensor(mine.sample_absmax), torch.tensor(theirs.sample_absmax), rtol=1e-4)


def test_several_packed_rows_with_padding():
    model = tiny("llama")
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [1] * 6])
    position_ids = torch.tensor([[0, 1, 0, 1, 2, 0], [0, 0, 0, 0, 1, 0], [0, 1, 2, 3, 4, 5]])
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        model(random_ids(3, 6), attention_mask=mask, position_ids=position_ids)
        model(random_ids(1, 2))
    lengths = (2, 3, 1, 2, 1, 6, 2)
    assert ids_of(probe) == [(s, p) for s, n in enumerate(lengths) for p in range(n)]
    assert probe.states["embedding_output"].summary().n_tokens == sum(lengths)


@pytest.mark.parametrize("left", [False, True])
def test_position_ids_of_whole_samples_change_nothing(left):
    """As generate and data collators make them: counted over the real tokens, whatever stands at the padding."""
    model, ids = tiny("llama"), random_ids(2, 5)
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0]])
    ids = ids.where(mask.bool(), PAD)
    results = []
    for fill in (None, 0, 1):
        position_ids = None if fill is None else (mask.cumsum(-1) - 1).masked_fill(mask == 0, fill)
        with torch.no_grad(), attach(model, EMBEDDING, topk=1024, n_samples=4) as probe:
            for _ in range(2):
                model(ids, attention_mask=mask, position_ids=position_ids)
        results.append(buffers(probe))
    assert ids_of(probe) == grid([0], 5) + grid([1], 3) + grid([2], 5) + grid([3], 3)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_samples_that_the_caller_names_are_whole_rows():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        probe.batch(sample_ids=torch.tensor([7]))
        model(random_ids(1, 4), position_ids=packed(2, 2))
    assert ids_of(probe) == grid([7], 4)


def test_position_0_and_skip_first_are_of_each_packed_sample():
    model, ids = tiny("llama"), random_ids(1, sum(LENGTHS))
    with torch.no_grad(), attach(model, EMBEDDING + ["layer_0_hidden"], position_0=True) as probe:
        model(ids, position_ids=packed(*LENGTHS))
    assert probe.groups()["position_0"]["layer_0_hidden"]["n_tokens"] == len(LENGTHS)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024, skip_first=2) as probe:
        model(ids, position_ids=packed(*LENGTHS))
    assert ids_of(probe) == [(0, 2), (2, 2), (2, 3)]

"""Leaving the first tokens of each sample out is the same as never having had them in the tensors."""

from __future__ import annotations

import pytest
import torch
from test_measure import TEXTS, Letters
from tiny_models import EMBEDDING, PAD, assert_same_bits, buffers, grid, ids_of, one_thread, random_ids, tiny  # noqa: F401

from maxact import measure
from maxact.hooks import attach
from maxact_kernels import fused_probe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_residual_stream_without_the_first_tokens_has_the_bits_of_the_tensor_cut(n):
    model, ids = tiny("llama"), random_ids(2, 6)
    with torch.no_grad():
        with attach(model, skip_first=n, n_samples=2) as probe:
            hidden = model(ids, output_hidden_states=True).hidden_states
        names = torch.arange(2)[:, None] << 32 | torch.arange(n, 6)
        cut = fused_probe(hidden[1][:, n:].contiguous(), token_ids=names, n_samples=2)
    assert_same_bits({"layer_0_hidden": probe.states["layer_0_hidden"].buffer}, {"layer_0_hidden": cut.buffer})


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_not_among_the_first_tokens(left):
    model = tiny("llama")
    ids = torch.tensor([[5, 9, 3, PAD, PAD]])
    ids = ids.flip(1) if left else ids
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024, skip_first=2) as probe:
        model(ids, attention_mask=(ids != PAD).long())
    assert ids_of(probe) == [(0, 2)]


def test_the_first_tokens_are_those_of_the_sample_in_steps_from_a_cache_too():
    model, ids, cache = tiny("llama"), random_ids(2, 6), None
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024, skip_first=3) as probe:
        for start, stop in ((0, 2), (2, 4), (4, 6)):
            cache = model(ids[:, start:stop], past_key_values=cache).past_key_values
    assert ids_of(probe) == grid([0, 1], 3, start=3)


def test_a_run_says_how_many_it_left_out_and_counts_none_of_them():
    model = tiny("llama")
    run = measure(model, Letters(), TEXTS, skip_first=2)
    n_tokens = sum(max(len(text) - 2, 0) for text in TEXTS)
    assert run.provenance["skip_first"] == 2 and run.provenance["n_tokens"] == n_tokens
    assert [s["n_tokens"] for s in run.provenance["samples"]] == [max(len(text) - 2, 0) for text in TEXTS]
    assert all(summary.n_tokens == n_tokens for summary in run.sites.values())
    assert run.groups() == {} and min(place.position for place in run.peaks()) >= 2


@pytest.mark.parametrize(
    ("error", "options", "sentence"),
    [
        (ValueError, dict(skip_first=-1), "skip_first: -1, expected 0 or more"),
        (TypeError, dict(skip_first=1.0), "skip_first: 1.0, expected a number of tokens"),
        (ValueError, dict(skip_first=1, position_0=True), "position_0: left out by skip_first=1; choose one of them"),
    ],
)
def test_what_cannot_be_left_out_is_an_error_before_any_hook(error, options, sentence):
    model = tiny("llama")
    with pytest.raises(error, match=f"^{sentence}$"):
        attach(model, **options)
    with attach(model):  # no hook stayed
        pass


def test_leaving_out_everything_is_an_error_before_the_first_batch():
    with pytest.raises(ValueError, match="^skip_first: 10, which leaves no token of the longest sample$"):
        measure(tiny("llama"), Letters(), TEXTS, skip_first=10)

"""Which sample and position `attach` gives each token: padding, caches, the caller's own names."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EMBEDDING, HIDDEN, PAD, assert_same_bits, buffers, grid, ids_of, one_thread, random_ids, tiny  # noqa: F401

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")


def test_left_and_right_padding_give_equal_statistics():
    """The embedding of a token does not depend on padding, so everything must be equal, top-k token ids too."""
    model, lengths = tiny("llama"), (6, 3, 5)
    rows = [random_ids(n, seed=n) for n in lengths]
    results = []
    for left in (False, True):
        ids = torch.full((3, 6), PAD)
        mask = torch.zeros(3, 6, dtype=torch.long)
        for row, tokens in enumerate(rows):
            at = slice(6 - len(tokens), 6) if left else slice(0, len(tokens))
            ids[row, at], mask[row, at] = tokens, 1
        with torch.no_grad(), attach(model, EMBEDDING, topk=1000, n_samples=3) as probe:
            model(input_ids=ids, attention_mask=mask)
        results.append(probe)
    assert ids_of(results[0]) == [(s, p) for s, n in enumerate(lengths) for p in range(n)]
    assert_same_bits(buffers(results[1]), buffers(results[0]))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 3e4])
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.bool, torch.float32], ids=str)
def test_what_stands_at_padded_positions_changes_nothing(garbage, mask_dtype):
    model = tiny("llama")
    ids = torch.tensor([[5, 9, 3, PAD], [PAD, PAD, 7, 7]])
    results = []
    for value in (0.0, garbage):
        with torch.no_grad():
            model.model.embed_tokens.weight[PAD] = value
            with attach(model, EMBEDDING) as probe:
                model(input_ids=ids, attention_mask=(ids != PAD).to(mask_dtype))
        results.append(buffers(probe))
    assert_same_bits(*results)
    with torch.no_grad(), attach(model, EMBEDDING) as unmasked:
        model(input_ids=ids)
    assert not torch.equal(unmasked.states["embedding_output"].buffer, results[1]["embedding_output"])


def test_without_a_mask_every_token_counts():
    model = tiny("gpt2")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1000) as probe:
        model(random_ids(3, 4))
    assert ids_of(probe) == grid(range(3), 4)


def test_rows_are_numbered_as_they_arrive():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        model(random_ids(2, 3))
        model(random_ids(3, 2))
    assert ids_of(probe) == grid(range(2), 3) + grid(range(2, 5), 2)


def test_positional_mask_is_found():
    model, ids = tiny("llama"), random_ids(1, 4)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1000) as probe:
        model(ids, torch.tensor([[0, 1, 1, 1]]))
    assert ids_of(probe) == grid([0], 3)


def test_inputs_embeds_name_the_tokens_too():
    model = tiny("llama")
    with torch.no_grad(), attach(model, ["layer_0_hidden"], topk=1000) as probe:
        model(inputs_embeds=torch.randn(2, 3, HIDDEN), attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert ids_of(probe, "layer_0_hidden") == grid([0], 3) + grid([1], 2)


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_key_value_cache_goes_on_with_the_same_samples(with_mask):
    model, ids = tiny("llama"), random_ids(2, 6)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]]) if with_mask else None
    cache = None
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        model(random_ids(3, 1))  # samples 0 to 2
        for start, stop in ((0, 3), (3, 5), (5, 6)):
            step_mask = mask[:, :stop] if with_mask else None
            cache = model(ids[:, start:stop], attention_mask=step_mask, past_key_values=cache).past_key_values
        model(random_ids(1, 1))  # sample 5
    assert ids_of(probe) == grid(range(3), 1) + grid([3], 6) + grid([4], 4 if with_mask else 6) + grid([5], 1)


def test_static_cache_without_mask_names_positions():
    from transformers import StaticCache

    model, ids = tiny("llama"), random_ids(2, 5)
    cache = StaticCache(config=model.config, max_cache_len=8)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        model(ids[:, :3], past_key_values=cache)
        model(ids[:, 3:], past_key_values=cache)
    assert ids_of(probe) == grid(range(2), 5)


def test_a_static_cache_that_is_used_again_begins_new_samples():
    """How many tokens it holds stands in a tensor; nothing waits to read it."""
    from transformers import StaticCache

    model, ids = tiny("llama"), random_ids(2, 5)
    cache = StaticCache(config=model.config, max_cache_len=8)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        for _ in range(2):
            model(ids[:, :3], past_key_values=cache)
            model(ids[:, 3:], past_key_values=cache)
            cache.reset()
        model(ids[:1, :1])
    assert ids_of(probe) == grid(range(4), 5) + [(4, 0)]
    assert probe.states["embedding_output"].summary().n_tokens == 21


def test_generate_names_each_token_once():
    model, ids = tiny("llama"), random_ids(2, 3)
    model.generation_config.eos_token_id = None
    with attach(model, EMBEDDING, topk=1024) as probe:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert ids_of(probe) == grid(range(2), 6)  # the last token is never an input
    assert probe.states["embedding_output"].summary().n_tokens == 12


def test_batch_names_the_next_forward_pass_only():
    model, ids = tiny("llama"), random_ids(2, 3)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        probe.batch(torch.tensor([[1, 1, 0], [0, 1, 1]]), torch.tensor([70, 2**31 - 1]))
        model(ids, attention_mask=torch.ones(2, 3))
        model(ids, attention_mask=torch.ones(2, 3))
    assert ids_of(probe) == grid([2, 3], 3) + grid([70, 2**31 - 1], 2)


def test_batch_may_give_the_sample_ids_alone():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        probe.batch(sample_ids=torch.tensor([9]))
        model(random_ids(1, 3), attention_mask=torch.tensor([[0, 1, 1]]))
    assert ids_of(probe) == grid([9], 2)


@pytest.mark.parametrize("form", ["4-D", "dict"])
def test_a_mask_without_padding_in_it_asks_for_batch(form):
    model, ids = tiny("llama"), random_ids(1, 3)
    causal = torch.zeros(1, 1, 3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), torch.finfo(torch.float32).min)
    mask, what = (causal, "a 4-D tensor") if form == "4-D" else ({"full_attention": causal}, "a dict")
    with torch.no_grad(), attach(model, topk=1024) as probe:
        with pytest.raises(ValueError, match=rf"^attention_mask: {what}, .* with probe\.batch\(attention_mask, "):
            model(ids, attention_mask=mask)
        assert probe.states == {}
        if form == "4-D":
            probe.batch(torch.tensor([[1, 1, 0]]))
            model(ids, attention_mask=mask)
            assert ids_of(probe) == grid([0], 2)


def test_the_decoder_may_be_called_directly():
    model, ids = tiny("llama"), random_ids(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    results = []
    for call in (model, model.get_decoder()):
        with torch.no_grad(), attach(model, n_samples=2) as probe:
            call(input_ids=ids, attention_mask=mask)
        probe.check()
        results.append(buffers(probe))
    assert_same_bits(*results)


class Middle(torch.nn.Module):
    """Makes the 4-D mask itself, as multimodal models do, so that the 2-D mask is seen no further down."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids, attention_mask):
        hidden = (attention_mask[:, None, None, :] == 0) | torch.ones(input_ids.shape[1:] * 2).triu(1).bool()
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        return self.decoder(inputs_embeds=self.decoder.embed_tokens(input_ids), attention_mask=mask)


class Outer(torch.nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.middle = Middle(decoder)

    def get_decoder(self):
        return self.middle.decoder

    def forward(self, input_ids, attention_mask):
        return self.middle(input_ids, attention_mask)


def test_what_lies_between_model_and_decoder_may_be_called_directly():
    model, ids, mask = Outer(tiny("llama").model), random_ids(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    results = []
    for call in (model, model.middle, model.middle.decoder):
        with torch.no_grad(), attach(model, topk=1024) as probe:
            call(input_ids=ids, attention_mask=mask)
        probe.check()
        assert ids_of(probe) == grid([0], 3) + grid([1], 2)
        results.append(probe)
    assert_same_bits(buffers(results[0]), buffers(results[1]))


def test_a_module_called_on_its_own_is_not_measured():
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model.get_input_embeddings()(random_ids(1, 3))
        model.lm_head(torch.zeros(1, 3, HIDDEN))
    assert probe.states == {}


def test_a_failed_forward_pass_leaves_no_tokens_behind():
    model, ids = tiny("llama"), random_ids(1, 3)
    handle = model.model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        with pytest.raises(ZeroDivisionError):
            model(ids)
        model.get_input_embeddings()(ids)  # outside a forward pass again
        handle.remove()
        model.get_decoder()(random_ids(2, 2))  # with its own tokens, not those of the failed pass
    assert ids_of(probe) == grid([0], 3) + grid([1, 2], 2)
    assert probe.states["embedding_output"].summary().n_tokens == 3 + 4


def test_batches_and_splits_of_them_give_the_same_bits():
    """What the state sees does not depend on how rows are batched; the embedding's values do not either."""
    model, ids = tiny("llama"), random_ids(4, 5)
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 4 + [0], [1] + [0] * 4])
    results = []
    for parts in ([range(4)], [range(2), range(2, 4)], [[2, 3], [0], [1]]):
        with torch.no_grad(), attach(model, EMBEDDING, n_samples=4) as probe:
            for part in parts:
                rows = torch.tensor(list(part))
                probe.batch(mask[rows], rows)
                model(ids[rows], attention_mask=mask[rows])
        results.append(buffers(probe))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_an_input_given_by_keyword_is_seen():
    model, ids = tiny("llama"), random_ids(1, 3)
    mlp = model.model.layers[0].mlp
    results = []
    for forward in (mlp.forward, lambda x: mlp.down_proj(input=mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(input=x))):
        mlp.forward = forward
        with torch.no_grad(), attach(model, ["layer_0_mlp_act"]) as probe:
            model(ids)
        results.append(buffers(probe))
    assert_same_bits(*results)

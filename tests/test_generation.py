"""What generate() computes step by step is measured as one plain forward pass over the same tokens is."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EMBEDDING, PAD, assert_same_bits, buffers, grid, ids_of, one_thread, random_ids, tiny  # noqa: F401
from transformers import BartConfig, BartForConditionalGeneration

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")

N_NEW = 4
PADDED = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])


def generator():
    model = tiny("llama")
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("mask", [None, PADDED], ids=["no padding", "left padding"])
@pytest.mark.parametrize(
    "options",
    [{}, dict(cache_implementation="static"), dict(prefill_chunk_size=2)],
    ids=["dynamic", "static", "chunks"],
)
def test_generation_is_measured_as_one_forward_pass(mask, options):
    model, ids = generator(), random_ids(2, 5)
    mask = torch.ones_like(ids) if mask is None else mask
    ids = ids.where(mask.bool(), PAD)
    with attach(model, topk=1024, n_samples=3, position_0=True) as steps:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=N_NEW, do_sample=False, **options)
    whole = torch.cat([mask, torch.ones(2, N_NEW - 1, dtype=torch.long)], 1)
    with torch.no_grad(), attach(model, topk=1024, n_samples=3, position_0=True) as plain:
        model(out[:, :-1], attention_mask=whole)  # the last token is never an input
    assert ids_of(steps) == ids_of(plain) == [(s, p) for s in range(2) for p in range(whole[s].sum())]
    assert_same_bits({"": steps.states["embedding_output"].buffer}, {"": plain.states["embedding_output"].buffer})
    for name, state in steps.states.items():
        mine, theirs = state.summary(), plain.states[name].summary()
        assert (mine.n_tokens, mine.n_elements) == (theirs.n_tokens, theirs.n_elements), name
        # the same sums in another order: float32, at most 96 products, three layers deep
        assert torch.allclose(
            torch.tensor(mine.channel_absmax), torch.tensor(theirs.channel_absmax), rtol=1e-3, atol=1e-5
        )
    assert steps.groups()["position_0"]["layer_0_hidden"]["n_tokens"] == 2


def test_calls_of_generate_number_their_samples_on():
    model = generator()
    with attach(model, EMBEDDING, topk=1024) as probe:
        for seed in range(2):
            ids = random_ids(1, 3, seed=seed)
            model.generate(ids, max_new_tokens=2, do_sample=False, cache_implementation="static")
    assert ids_of(probe) == grid(range(2), 4)
    assert probe.states["embedding_output"].summary().n_tokens == 8


@pytest.mark.parametrize("cache", [None, "static"])
def test_the_decoder_beside_an_encoder_generates_tokens_of_its_own(cache):
    config = BartConfig(
        vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=PAD,
        bos_token_id=1, eos_token_id=None, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    model, ids = BartForConditionalGeneration(config).eval(), random_ids(2, 5)
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with attach(model, ["layer_0_hidden"], topk=1024) as probe:
        model.generate(ids, attention_mask=mask, max_new_tokens=N_NEW, do_sample=False, cache_implementation=cache)
    assert ids_of(probe, "layer_0_hidden") == grid(range(2), N_NEW)
    assert probe.states["layer_0_hidden"].summary().n_tokens == 2 * N_NEW


def test_generate_batch_is_refused():
    """Its rows hold steps of many samples; nothing says which. Here as it calls the model: itself it takes long to end."""
    model = generator()
    with torch.no_grad(), attach(model) as probe:
        with pytest.raises(
            ValueError, match="^cache: a paged one, as generate_batch has it, .*; measure generate instead$"
        ):
            model(random_ids(1, 3), cache=object(), cu_seq_lens_q=torch.tensor([0, 3]))
        assert probe.states == {}


def test_beams_are_samples_of_their_own():
    model = generator()
    with attach(model, EMBEDDING, topk=1024) as probe:
        model.generate(random_ids(2, 3), max_new_tokens=2, do_sample=False, num_beams=3)
    assert ids_of(probe) == grid(range(6), 4)


def test_without_a_cache_every_step_is_a_forward_pass_of_new_samples():
    """The model computes every token again, and what it computes is measured."""
    model = generator()
    with attach(model, EMBEDDING, topk=1024) as probe:
        model.generate(random_ids(1, 3), max_new_tokens=2, do_sample=False, use_cache=False)
    assert ids_of(probe) == grid([0], 3) + grid([1], 4)


def test_the_model_prepares_its_inputs_itself_again_after_detach():
    model = generator()
    with attach(model):
        assert "prepare_inputs_for_generation" in vars(model)
    assert "prepare_inputs_for_generation" not in vars(model)
    mine = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = mine
    with attach(model):
        pass
    assert vars(model)["prepare_inputs_for_generation"] is mine


def test_the_texts_are_those_without_a_probe():
    model, ids = generator(), random_ids(2, 5).where(PADDED.bool(), PAD)
    options = dict(attention_mask=PADDED, max_new_tokens=N_NEW, do_sample=False, cache_implementation="static")
    without = model.generate(ids, **options)
    with attach(model, "gemm"):
        assert torch.equal(model.generate(ids, **options), without)

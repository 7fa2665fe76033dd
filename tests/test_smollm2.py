"""A real model: SmolLM2-135M has massive activations, known in place and size, and must be found as it is."""

import pytest
import torch
from probes import assert_agrees

from maxact import attach, measure
from maxact.corpus import Corpus, Sample, load_corpus
from maxact.models import load_model
from maxact.run import Run
from maxact_kernels import ProbeState

DELTA = 19841  # the token that the largest value at position 0 belongs to
CHANNEL, BORN, GONE = 507, 11, 29  # the massive channel, the layer that makes it, the one that takes it away


@pytest.fixture(scope="module")
def smollm2(smollm2_directory):
    return load_model(smollm2_directory, dtype="float32")


@pytest.fixture(scope="module")
def texts():
    corpus = load_corpus("builtin")
    return Corpus.from_texts([sample.text[:400] for sample in corpus.samples[::14]])


@pytest.fixture(scope="module")
def run(smollm2, texts):
    return measure(smollm2.model, smollm2.tokenizer, texts, bos=True, sites="gemm", tokens_per_batch=2048)


def test_the_bos_token_is_massive_in_one_channel_from_layer_11_on(run):
    hidden = {i: run.sites[f"layer_{i}_hidden"] for i in range(30)}
    for i in range(BORN, GONE - 1):
        assert hidden[i].topk.features[0] == CHANNEL
        assert hidden[i].topk.token_ids[0] & 0xFFFFFFFF == 0
    # Position 0 sees no other token, so this is one number whatever the text: 24,926.2 in float32, with these weights.
    # Another order of additions moves it by some 1e-6.
    assert hidden[BORN].absmax == pytest.approx(24926.2, rel=2e-5)
    assert hidden[BORN - 1].absmax < 300 and hidden[GONE].absmax < 10_000
    assert run.M == max(s.absmax for s in hidden.values())


def test_it_is_born_in_the_down_projection_of_layer_11(run):
    act = run.sites[f"layer_{BORN}_mlp_act"]
    assert act.absmax == pytest.approx(3000, rel=0.05) and act.topk.features[0] == 1229
    output = run.sites[f"layer_{BORN}_mlp_output"]
    assert output.absmax > 20_000 and output.topk.features[0] == CHANNEL
    for i in range(BORN + 1, 27):
        assert run.sites[f"layer_{i}_mlp_output"].absmax < 1000


def test_every_sample_has_it_because_every_sample_begins_with_bos(run, texts):
    layer = run.sites[f"layer_{BORN + 1}_hidden"]
    assert layer.sample_absmax.min() == pytest.approx(layer.sample_absmax.max(), rel=1e-5)
    assert len(layer.sample_absmax) == len(texts.samples)
    assert run.token_text(0, 0) == "<|im_start|>"


def test_the_default_sites_are_all_seen_and_the_whole_run_survives_the_disk(run, tmp_path):
    assert all(row["fired"] == row["expected"] and not row["missing"] for row in run.provenance["coverage"])
    run.save(tmp_path / "run")
    loaded = Run.load(tmp_path / "run")
    assert loaded.to_json() == run.to_json()


def test_the_probe_sees_what_the_model_itself_returns(smollm2):
    ids = smollm2.tokenizer("The largest activation", return_tensors="pt")
    with torch.inference_mode():
        states = smollm2.model(**ids, output_hidden_states=True).hidden_states
        with attach(smollm2.model) as probe:
            smollm2.model(**ids)
    for i in range(29):  # the last entry is after the final norm
        assert probe.states[f"layer_{i}_hidden"].summary().absmax == states[i + 1].abs().max()
    assert probe.states["final_layernorm"].summary().absmax == states[30].abs().max()


def test_logits_are_the_same_to_the_last_bit_with_the_probe_attached(smollm2):
    ids = smollm2.tokenizer("def f(x):\n    return x", return_tensors="pt")
    with torch.inference_mode():
        bare = smollm2.model(**ids).logits
        with attach(smollm2.model, sites="gemm"):
            probed = smollm2.model(**ids).logits
    assert torch.equal(bare, probed)


def test_no_corpus_is_needed_for_position_0_where_the_word_delta_is_larger_than_the_bos_token(smollm2):
    # `maxact sweep smollm2-135m` goes through all 49,152 tokens in some minutes and finds this one the largest, 30,848 in bfloat16.
    corpus = Corpus("words", [Sample(None, [id], "") for id in (smollm2.tokenizer.bos_token_id, DELTA)])
    layer = measure(smollm2.model, smollm2.tokenizer, corpus, sites=[f"layer_{BORN}_hidden"]).sites[f"layer_{BORN}_hidden"]
    assert smollm2.tokenizer.decode([DELTA]) == "delta"
    assert layer.sample_absmax == pytest.approx([24926.2, 30762.0], rel=2e-5)


@pytest.mark.gpu
def test_a_run_on_a_gpu_equals_the_cpu_run_on_the_same_tensors(smollm2_directory, texts, monkeypatch):
    update, twins = ProbeState.update, {}

    def update_both(state, x, mask=None, token_ids=None):
        update(state, x, mask, token_ids)
        options = {name: value for name, value in state.options.to_json().items() if name not in ("d", "dtype")}
        _, twin, seen = twins.setdefault(state.key, (state, ProbeState(state.d, x.dtype, "cpu", **options), []))
        update(twin, x.cpu(), mask.cpu(), token_ids.cpu())
        seen.append(x[mask].flatten().cpu())

    model = load_model(smollm2_directory, dtype="bfloat16", device="cuda")
    monkeypatch.setattr(ProbeState, "update", update_both)
    run = measure(model.model, model.tokenizer, texts, bos=True, sites="gemm", tokens_per_batch=2048)
    assert len(twins) == len(run.sites)
    for state, twin, seen in twins.values():
        assert state.device.type == "cuda"
        assert_agrees(state, twin, torch.cat(seen))

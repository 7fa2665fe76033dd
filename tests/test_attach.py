"""What `attach` promises: the model is not disturbed, tokens are named right, nothing is missed in silence."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
import torch
from tiny_models import FAMILIES, HIDDEN, N_LAYERS, PAD, one_thread, random_ids, tiny  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from maxact.hooks import attach
from maxact_kernels import ProbeState

pytestmark = pytest.mark.usefixtures("one_thread")
EMBEDDING = ["embedding_output"]


def ids_of(probe, site: str = "embedding_output") -> list[tuple[int, int]]:
    """(sample, position) of every token that a site saw; attach with a topk that holds all its elements."""
    tokens = probe.states[site].summary().topk.token_ids
    return sorted({(int(token) >> 32, int(token) & 0xFFFFFFFF) for token in tokens})


def grid(samples, n_positions: int, start: int = 0) -> list[tuple[int, int]]:
    return [(sample, position) for sample in samples for position in range(start, start + n_positions)]


def buffers(probe) -> dict[str, torch.Tensor]:
    return {name: state.buffer.clone() for name, state in probe.states.items()}


def assert_same_bits(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(mine) == list(theirs)
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


def count_hooks(model) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called)
    )


class Ops(TorchDispatchMode):
    """Counts the operations that PyTorch runs."""

    def __init__(self):
        super().__init__()
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


# The model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_outputs_are_bit_identical_with_hooks(model_type, dtype):
    model, ids = tiny(model_type, dtype), random_ids(2, 6)
    batch = dict(input_ids=ids, attention_mask=torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]]), output_hidden_states=True)
    with torch.no_grad():
        without = model(**batch)
        with attach(model, "gemm", int8_per_token=True) as probe:
            within = model(**batch)
    probe.check()
    assert torch.equal(without.logits, within.logits)
    for mine, theirs in zip(within.hidden_states, without.hidden_states, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # 5.17 has no other name
def test_gradients_are_bit_identical_with_hooks_and_checkpointing_counts_nothing_twice():
    model, ids = tiny("phi3"), random_ids(2, 6)
    model.train()

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    without = gradients()
    with attach(model, "gemm") as plain:
        within = gradients()
    model.gradient_checkpointing_enable()
    with attach(model, "gemm") as checkpointed:
        recomputed = gradients()
    for a, b, c in zip(without, within, recomputed, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert_same_bits(buffers(checkpointed), buffers(plain))


def test_no_activation_is_kept_alive():
    model = tiny("llama")
    alive = []

    def watch(module, args, output):
        alive.append(weakref.ref(output))

    handle = model.model.layers[1].mlp.register_forward_hook(watch)
    with torch.no_grad(), attach(model, "gemm"):
        model(random_ids(2, 4))
        gc.collect()
        assert len(alive) == 1 and alive[0]() is None
    handle.remove()


def test_hooks_read_nothing_on_the_host_and_name_the_tokens_once(monkeypatch):
    """What the hooks themselves do, without the kernels: a few operations a forward pass, none a site."""
    model = tiny("phi3")
    batch = dict(input_ids=random_ids(2, 6), attention_mask=torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))
    updates = []
    monkeypatch.setattr(ProbeState, "update", lambda state, x, mask, token_ids: updates.append(x.shape))

    def operations(sites) -> Counter:
        with torch.no_grad(), attach(model, sites) as probe:
            model(**batch)  # states are made here
            with Ops() as ops:
                model(**batch)
            probe.check()
        return ops.counts - without.counts

    with torch.no_grad(), Ops() as without:
        model(**batch)
    one = operations(EMBEDDING)
    assert one["cumsum"] == 1
    assert set(one) <= {"arange", "cumsum", "sub", "add", "ne", "slice", "unsqueeze", "__lshift__", "detach", "alias"}
    assert operations("gemm") - one == Counter(slice=N_LAYERS)  # views: the gates of phi3
    assert len(updates) == 2 * (1 + 2 + 8 * N_LAYERS)


# The tokens


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


# The hooks


def test_hooks_are_gone_after_a_normal_exit_and_the_states_stay():
    model = tiny("llama")
    before = count_hooks(model)
    with torch.no_grad(), attach(model, "gemm") as probe:
        assert count_hooks(model) > before
        model(random_ids(1, 3))
    assert count_hooks(model) == before
    kept = buffers(probe)
    with torch.no_grad():
        model(random_ids(1, 3, seed=1))
    probe.detach()
    assert_same_bits(buffers(probe), kept)
    assert len(kept) == 2 + 8 * N_LAYERS


def test_hooks_are_gone_after_an_exception():
    model = tiny("llama")
    before = count_hooks(model)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), attach(model):
            raise error
        assert count_hooks(model) == before


def test_hooks_are_gone_when_attaching_fails_half_way(monkeypatch):
    model = tiny("llama")
    before = count_hooks(model)
    monkeypatch.setattr(model.model.norm, "register_forward_hook", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attach(model)
    assert count_hooks(model) == before


def test_a_bad_option_is_an_error_before_any_hook():
    model = tiny("llama")
    before = count_hooks(model)
    for option, sentence in (
        (dict(topk=0), "topk: 0, expected 1 to 1024"),
        (dict(t_abs=-1.0), "t_abs: -1.0, expected a finite "),
        (dict(backend="abacus"), "backend: 'abacus', expected one of "),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            attach(model, **option)
    assert count_hooks(model) == before


def test_attach_inside_attach_is_an_error():
    model = tiny("llama")
    with attach(model):
        for again in (model, model.model):
            with pytest.raises(ValueError, match="^model: another probe is attached to this Llama.*; leave its"):
                attach(again)
    with attach(model.model), pytest.raises(ValueError, match="^model: another probe is attached"):
        attach(model)
    with attach(model), attach(tiny("llama")):
        pass


def test_a_detached_probe_cannot_be_entered_again():
    probe = attach(tiny("llama"))
    probe.detach()
    with pytest.raises(RuntimeError, match=r"^this probe is detached; call maxact.attach\(model\) again$"), probe:
        pass


# What was missed


def test_check_passes_and_coverage_is_full_when_every_site_fired():
    model = tiny("gpt2")
    with torch.no_grad(), attach(model) as probe:
        model(random_ids(1, 3))
    probe.check()
    rows = {row["kind"]: row for row in probe.coverage()}
    counts = {kind: (row["expected"], row["fired"]) for kind, row in rows.items()}
    layers = (N_LAYERS, N_LAYERS)
    assert counts == {
        "embedding_output": (1, 1), "attn_output": layers, "moe_gate": (0, 0), "mlp_gate": (0, 0),
        "mlp_output": layers, "hidden": layers, "final_layernorm": (1, 1),
    }  # fmt: skip
    assert "no gate projection in GPT2MLP" in rows["mlp_gate"]["note"]
    assert rows["hidden"] == dict(kind="hidden", expected=3, fired=3, missing=[], note="")


def test_a_site_that_never_fired_is_named():
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model.model.layers[1].forward = lambda hidden_states, **kwargs: hidden_states
        model(random_ids(1, 3))
    missing = ["layer_1_attn_output", "layer_1_mlp_gate", "layer_1_mlp_output"]
    with pytest.raises(RuntimeError, match=f"^3 of 14 sites saw no tensor: {', '.join(missing)}; the forward"):
        probe.check()
    rows = {row["kind"]: row for row in probe.coverage()}
    assert [name for row in rows.values() for name in row["missing"]] == missing
    assert (rows["mlp_gate"]["expected"], rows["mlp_gate"]["fired"]) == (3, 2)


def test_many_missing_sites_are_shortened_with_a_count():
    model = tiny("llama")
    with torch.no_grad(), attach(model, "gemm") as probe:
        for layer in model.model.layers:
            layer.forward = lambda hidden_states, **kwargs: hidden_states
        model(random_ids(1, 3))
    with pytest.raises(RuntimeError, match="^21 of 26 sites saw no tensor: layer_0_attn_input, .*_act and 1 more; "):
        probe.check()


def test_no_forward_pass_at_all_is_said():
    with attach(tiny("llama")) as probe:
        pass
    with pytest.raises(RuntimeError, match="^no forward pass of LlamaForCausalLM was seen; call the model or its dec"):
        probe.check()
    with pytest.raises(RuntimeError, match="^no forward pass"):
        probe.run()


def test_states_are_in_the_order_of_the_model_whatever_fired_first():
    model = tiny("llama")
    with torch.no_grad(), attach(model, ["layer_0_hidden", "layer_0_mlp_output", "embedding_output"]) as probe:
        model(inputs_embeds=torch.ones(1, 3, HIDDEN))
        assert list(probe.states) == ["layer_0_mlp_output", "layer_0_hidden"]
        model(random_ids(1, 3))
    assert list(probe.states) == ["embedding_output", "layer_0_mlp_output", "layer_0_hidden"]


# Snapshots


@pytest.mark.parametrize("inference", [False, True])
def test_restore_gives_the_bits_of_never_having_run_the_batch(inference):
    model, ids = tiny("llama"), [random_ids(2, 4, seed=seed) for seed in range(3)]
    grad_mode = torch.inference_mode if inference else torch.no_grad
    with grad_mode(), attach(model, topk=20, n_samples=4) as plain:
        model(ids[0])
        model(ids[2])
    with attach(model, topk=20, n_samples=4) as probe:
        with grad_mode():
            model(ids[0])
            before = probe.snapshot()
            handle = model.model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(ids[1])
            handle.remove()
        assert not torch.equal(probe.states["layer_0_hidden"].buffer, probe._spares["layer_0_hidden"])
        probe.restore(before)
        with grad_mode():
            model(ids[2])
    assert_same_bits(buffers(probe), buffers(plain))


def test_restore_after_ctrl_c_lets_the_decoder_name_its_own_tokens():
    """PyTorch calls no hook when a KeyboardInterrupt leaves a forward pass, so the probe is not told that it ended."""
    model = tiny("llama")

    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        before = probe.snapshot()
        with pytest.raises(KeyboardInterrupt):
            model(random_ids(2, 4))
        probe.restore(before)
        handle.remove()
        model.get_decoder()(random_ids(1, 3))
    assert ids_of(probe) == grid([0], 3)


def test_restore_to_before_the_first_batch_removes_the_states():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        before = probe.snapshot()
        model(random_ids(2, 3))
        probe.restore(before)
        assert probe.states == {}
        model(random_ids(1, 2))
    assert ids_of(probe) == grid([0], 2)


def test_restore_brings_back_the_batch_that_was_named():
    model = tiny("llama")
    with torch.no_grad(), attach(model, EMBEDDING, topk=1024) as probe:
        probe.batch(sample_ids=torch.tensor([5]))
        before = probe.snapshot()
        for _ in range(2):
            probe.restore(before)
            model(random_ids(1, 2))
    assert ids_of(probe) == grid([5], 2)
    assert probe.states["embedding_output"].summary().n_tokens == 2


def test_snapshots_reuse_their_memory_and_only_the_latest_can_be_restored():
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model(random_ids(2, 3))
        with torch.inference_mode():
            older = probe.snapshot()
        addresses = {name: spare.data_ptr() for name, spare in probe._spares.items()}
        model(random_ids(2, 3, seed=1))
        latest = probe.snapshot()
        assert {name: spare.data_ptr() for name, spare in probe._spares.items()} == addresses
        with pytest.raises(ValueError, match="^snapshot: expected the latest of this probe"):
            probe.restore(older)
        kept = buffers(probe)
        model(random_ids(2, 3, seed=2))
        probe.restore(latest)
    assert_same_bits(buffers(probe), kept)


# Errors


@pytest.mark.parametrize(
    ("error", "arguments", "sentence"),
    [
        (TypeError, dict(attention_mask=[[1, 1]]), "attention_mask: list, expected a torch.Tensor"),
        (ValueError, dict(attention_mask=torch.ones(3)), r"attention_mask: shape \[3\], expected \[batch, tokens\]"),
        (TypeError, dict(sample_ids=[0, 1]), "sample_ids: list, expected an int64 tensor"),
        (TypeError, dict(sample_ids=torch.ones(2)), "sample_ids: torch.float32, expected an int64 tensor"),
        (ValueError, dict(sample_ids=torch.tensor(3)), r"sample_ids: shape \[\], expected \[batch\]"),
        (ValueError, dict(sample_ids=torch.tensor([0, -1])), r"sample_ids: \[0, -1\], expected 0 to 2\^31 - 1"),
        (ValueError, dict(sample_ids=torch.tensor([2**31])), r"sample_ids: \[2147483648\], expected 0 to 2\^31 - 1"),
    ],
)
def test_batch_refuses_what_is_not_a_mask_or_sample_ids(error, arguments, sentence):
    with attach(tiny("llama")) as probe, pytest.raises(error, match=f"^{sentence}$"):
        probe.batch(**arguments)


@pytest.mark.parametrize(
    ("named", "arguments", "sentence"),
    [
        (dict(sample_ids=torch.arange(3)), dict(input_ids=random_ids(2, 3)),
         "sample_ids: 3 of them, expected 2 for the rows of input_ids"),
        (dict(attention_mask=torch.ones(2, 2)), dict(input_ids=random_ids(2, 3)),
         r"attention_mask: shape \[2, 2\], expected \[2, 3\] like input_ids, or longer with a key-value cache"),
        (dict(attention_mask=torch.ones(1, 3)), dict(inputs_embeds=torch.ones(2, 3, HIDDEN)),
         r"attention_mask: shape \[1, 3\], expected \[2, 3\] like inputs_embeds"),
        ({}, dict(input_ids=random_ids(3)), r"input_ids: shape \[3\], expected \[batch, tokens\]"),
        ({}, {}, "input_ids: missing, as is inputs_embeds"),
    ],
)  # fmt: skip
def test_a_forward_pass_whose_tokens_cannot_be_named_is_an_error(named, arguments, sentence):
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        probe.batch(**named)
        with pytest.raises(ValueError, match=f"^{sentence}"):
            model(**arguments)
        assert probe.states == {}
        model(random_ids(1, 2))  # and the next one is as if it had not been
    probe.check()
    assert probe.states["layer_0_hidden"].summary().n_tokens == 2


def test_a_site_of_another_shape_is_named_with_both_shapes():
    model = tiny("llama")
    model.model.layers[1].mlp.forward = lambda x: x[:, :2].sum(1, keepdim=True)
    with torch.no_grad(), attach(model), pytest.raises(ValueError, match=(
        r"^layer_1_mlp_output: a tensor of shape \[2, 1, 64\], expected \[2, 3, d\] or \[6, d\] like the tokens"
    )):  # fmt: skip
        model(random_ids(2, 3))


def test_a_site_without_a_tensor_is_named():
    model = tiny("llama")
    model.model.norm.forward = lambda x: {"hidden": x}
    with torch.no_grad(), attach(model), pytest.raises(
        TypeError, match="^final_layernorm: model.norm has a dict as output, expected a tensor$"
    ):  # fmt: skip
        model(random_ids(1, 3))


def test_a_tensor_that_the_kernels_refuse_is_named_with_its_site():
    model = tiny("llama", torch.float64)
    with torch.no_grad(), attach(model), pytest.raises(TypeError, match="^embedding_output: .*float64, expected bf"):
        model(random_ids(1, 3))

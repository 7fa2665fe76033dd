"""What `attach` promises: the model is not disturbed, tokens are named right, nothing is missed in silence."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
import torch
from tiny_models import EMBEDDING, FAMILIES, HIDDEN, N_LAYERS, assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from maxact.hooks import attach
from maxact_kernels import ProbeState

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert set(one) <= {
        "arange", "cumsum", "sub", "add", "add_", "ne", "slice", "select", "unsqueeze", "expand", "__lshift__", "detach",
        "alias",
    }  # fmt: skip
    assert operations("gemm") - one == Counter(slice=N_LAYERS)  # views: the gates of phi3
    assert len(updates) == 2 * (1 + 2 + 8 * N_LAYERS)


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


def test_two_probes_on_two_models_measure_each_its_own():
    models, ids = [tiny("llama"), tiny("qwen2")], [random_ids(2, 4), random_ids(3, 5, seed=1)]
    alone = []
    with torch.no_grad():
        for model, tokens in zip(models, ids):
            with attach(model) as probe:
                model(tokens), model(tokens)
            alone.append(buffers(probe))
        with attach(models[0]) as first, attach(models[1]) as second:
            # one within the other: as an assistant, or a reward model in a hook
            handle = models[0].model.layers[1].register_forward_hook(lambda *_: models[1](ids[1]) and None)
            models[0](ids[0]), models[0](ids[0])
            handle.remove()
    assert_same_bits(buffers(first), alone[0])
    assert_same_bits(buffers(second), alone[1])


def test_a_wrapping_for_several_processes_may_be_given_in_place_of_the_model(tmp_path):
    model, ids = tiny("llama"), random_ids(2, 4)
    with attach(model) as plain:
        model(ids)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for wrapping in (torch.nn.parallel.DistributedDataParallel(model), torch.nn.DataParallel(model)):
            with attach(wrapping) as probe:
                wrapping(ids).logits.sum().backward()
            assert_same_bits(buffers(probe), buffers(plain))
    finally:
        torch.distributed.destroy_process_group()


def test_copies_that_run_side_by_side_are_refused():
    """nn.DataParallel calls copies of the modules from threads, with the hooks of the one that is measured."""
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model.model._is_replica = True
        with pytest.raises(RuntimeError, match="^torch.nn.DataParallel runs copies of LlamaModel side by side, .*torchrun"):
            model(random_ids(1, 3))
        del model.model._is_replica
        model(random_ids(1, 3))
    assert probe.states["layer_0_hidden"].summary().n_tokens == 3


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

"""Watching experts changes no output and leaves nothing behind; what cannot be watched is left out and said."""

import pytest
import torch
from moe_models import IMPLEMENTATIONS, MOES, experts_of, tiny_moe
from tiny_models import assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401
from torch.overrides import _get_current_function_mode_stack

from maxact.experts import find_all_sites, row_order
from maxact.hooks import attach
from maxact.replaced import Replaced

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = random_ids(2, 6)


def own_attributes(model) -> list[set[str]]:
    return [set(module.__dict__) for module in model.modules()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("model_type", MOES)
def test_outputs_are_bit_identical_and_nothing_is_left_behind(model_type, implementation, dtype):
    model = tiny_moe(model_type, implementation, dtype)
    before = own_attributes(model)
    with torch.no_grad():
        without = model(IDS).logits
        with attach(model, "gemm") as probe:
            assert own_attributes(model) != before
            within = model(IDS).logits
    probe.check()
    assert torch.equal(without, within)
    assert own_attributes(model) == before


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_bit_identical_and_checkpointing_counts_nothing_twice(implementation):
    model = tiny_moe("qwen3_moe", implementation).train()

    def gradients():
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    without = gradients()
    with attach(model, ["*_experts_act"]) as plain:
        within = gradients()
    model.gradient_checkpointing_enable(dict(use_reentrant=False))
    with attach(model, ["*_experts_act"]) as checkpointed:
        recomputed = gradients()
    for a, b, c in zip(without, within, recomputed, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert_same_bits(buffers(checkpointed), buffers(plain))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_forward_pass_that_fails_within_the_experts_leaves_nothing_behind(implementation, error):
    model = tiny_moe("qwen3_moe", implementation)
    before = own_attributes(model)

    def fail(*args):
        raise error("inside")

    handle = model.model.layers[1].mlp.experts.act_fn.register_forward_hook(fail)
    with torch.no_grad(), pytest.raises(error, match="inside"), attach(model, "gemm"):
        model(IDS)
    handle.remove()
    assert own_attributes(model) == before and not _get_current_function_mode_stack()
    with torch.no_grad(), attach(model, "gemm") as probe:
        model(IDS)
    probe.check()


def test_a_second_probe_is_refused_and_changes_nothing():
    model = tiny_moe("mixtral")
    with torch.no_grad(), attach(model, ["*_experts_act"]) as probe:
        attached = own_attributes(model)
        with pytest.raises(ValueError, match="another probe is attached"):
            attach(model, ["*_experts_act"])
        assert own_attributes(model) == attached
        model(IDS)
    probe.check()


def test_who_wrapped_a_method_before_or_after_keeps_it():
    module = torch.nn.Identity()
    module.forward = first = lambda x: x + 1
    replaced = Replaced(module, "forward", lambda original, x: original(x) * 10)
    assert module(1) == 20
    mine = module.forward
    module.forward = lambda x: mine(x) + 5
    assert module(1) == 25
    replaced.remove()
    assert module(1) == 2 + 5
    module.forward = first
    replaced = Replaced(module, "forward", lambda original, x: original(x) * 10)
    replaced.remove()
    assert module.forward is first


def test_the_experts_on_their_own_are_not_seen():
    model = tiny_moe("mixtral")
    with torch.no_grad(), attach(model, ["*_experts_act"]) as probe:
        experts_of(model, "mixtral")[0](torch.ones(2, 64), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    assert not probe.states


def test_tokens_that_are_not_those_of_the_forward_pass_are_refused():
    model = tiny_moe("mixtral")
    model.model.layers[2].mlp.register_forward_pre_hook(lambda block, args: (args[0][:, :5].contiguous(),))
    with torch.no_grad(), attach(model, ["*_experts_act"]), pytest.raises(ValueError) as error:
        model(IDS)
    assert str(error.value).startswith("layer_2_experts_act: a tensor of shape [10, 64], expected [2, 6, d] or [12, d]")


def test_nothing_is_read_on_the_host_and_nothing_of_the_tensors_size_is_made(monkeypatch):
    from collections import Counter

    from test_attach import Ops

    from maxact_kernels import ProbeState

    monkeypatch.setattr(ProbeState, "update", lambda state, x, mask, token_ids: None)
    model = tiny_moe("qwen3_moe", "grouped_mm")

    def operations(sites) -> Counter:
        with torch.no_grad(), attach(model, sites):
            model(IDS)
            with Ops() as ops:
                model(IDS)
        return ops.counts

    more = operations(["embedding_output", "*_experts_act"]) - operations(["embedding_output"])
    assert not {"_local_scalar_dense", "item", "nonzero", "mul", "clone", "_to_copy"} & set(more), more
    assert more["sort"] == 3


# Which experts have a site


def test_rows_are_ordered_as_the_implementations_order_them():
    index = torch.tensor([[1, 0], [0, 2]])
    token, expert = row_order("grouped_mm")(index)
    assert (token.tolist(), expert.tolist()) == ([0, 1, 0, 1], [0, 0, 1, 2])
    token, expert = row_order("batched_mm")(index)
    assert (token.tolist(), expert.tolist()) == ([0, 0, 1, 1], [1, 0, 0, 2])
    assert row_order("no such implementation") is None


def test_an_implementation_with_another_order_of_rows_is_left_out(monkeypatch):
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

    def backwards(experts, hidden, index, weights):
        return batched_mm_experts_forward(experts, hidden.flip(0), index.flip(0), weights.flip(0)).flip(0)

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "backwards", backwards)
    model = tiny_moe("mixtral")
    model.set_experts_implementation("backwards")
    note = "the order of rows of the experts implementation 'backwards' is not known"
    site_map = find_all_sites(model, "gemm")
    assert site_map.notes["experts_act"] == note
    assert not any(site.kind == "experts_act" for site in site_map.sites)
    with pytest.raises(ValueError, match=rf"'\*_experts_act' matches no site of MixtralForCausalLM: {note}"):
        attach(model, ["*_experts_act"])


def test_experts_that_are_spread_over_processes_or_quantized_are_left_out():
    model = tiny_moe("mixtral")
    experts = experts_of(model, "mixtral")
    experts[0]._is_expert_parallel = True
    experts[1].down_proj = torch.nn.Parameter(
        experts[1].down_proj.detach().to(torch.float8_e4m3fn), requires_grad=False
    )
    note = "layers 0: the experts are spread over processes; layers 1: the experts' weights are float8_e4m3fn"
    assert find_all_sites(model, "gemm").notes["experts_act"] == note


def test_experts_that_are_modules_of_a_list_are_left_out():
    model = tiny("llama")
    model.model.layers[1].mlp.experts = torch.nn.ModuleList([torch.nn.Identity()])
    note = "layers 0, 2: no experts; layers 1: ModuleList goes around the experts interface of transformers"
    assert find_all_sites(model, "gemm").notes["experts_act"] == note


def test_layers_without_experts_are_named():
    with torch.no_grad(), attach(tiny_moe("deepseek_v3"), "gemm") as probe:
        probe.model(IDS)
    (row,) = (row for row in probe.coverage() if row["kind"] == "experts_act")
    assert row == dict(kind="experts_act", expected=2, fired=2, missing=[], note="layers 0: no experts")


def test_a_dense_model_says_nothing_of_experts_unless_asked():
    model = tiny("llama")
    assert "experts_act" not in find_all_sites(model, "gemm").notes
    with pytest.raises(ValueError, match=r"'layer_1_experts_act' matches no site of LlamaForCausalLM: no experts"):
        attach(model, ["layer_1_experts_act"])


def test_the_default_sites_hold_no_experts_and_gemm_has_them_in_their_place():
    model = tiny_moe("mixtral")
    assert not any(site.kind == "experts_act" for site in find_all_sites(model, "default").sites)
    names = [site.name for site in find_all_sites(model, "gemm").sites]
    assert names.index("layer_1_moe_gate") < names.index("layer_1_experts_act") < names.index("layer_1_mlp_output")


@pytest.mark.parametrize(
    "patterns, expected",
    [
        (["layer_1_*"], {"layer_1_experts_act", "layer_1_hidden", "layer_1_moe_gate"}),
        (["layer_0_experts_act", "final_layernorm"], {"layer_0_experts_act", "final_layernorm"}),
        (["*_hidden"], {"layer_0_hidden"}),
    ],
)
def test_patterns_choose_experts_as_any_site(patterns, expected):
    names = {site.name for site in find_all_sites(tiny_moe("mixtral"), patterns).sites}
    assert expected <= names and ("layer_1_experts_act" in names) == ("layer_1_*" in patterns)


@pytest.mark.parametrize("sites", ["most", [], ["nonsense"], [3]], ids=str)
def test_what_is_no_site_is_refused_as_ever(sites):
    with pytest.raises(ValueError, match="^sites: "):
        find_all_sites(tiny_moe("mixtral"), sites)

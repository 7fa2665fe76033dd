"""The sites of every family: their names, and each tensor against what the model does with it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, INNER, N_LAYERS, Family, one_thread, random_ids, tiny  # noqa: F401
from torch import nn
from torch.nn import functional as F

from maxact.hooks import attach
from maxact.parts import NAMES
from maxact.sites import find_sites
from maxact_kernels import fused_probe

pytestmark = pytest.mark.usefixtures("one_thread")
every_family = pytest.mark.parametrize("model_type", FAMILIES)


def names_of(family: Family, kinds: list[str]) -> list[str]:
    layers = [f"layer_{i}_{kind}" for i in range(N_LAYERS) for kind in kinds]
    return ["embedding_output", *layers, "final_layernorm"]


class Tape:
    """What goes into and out of a model's modules during one forward pass, by hooks of the test's own."""

    def __init__(self, model: nn.Module, *args, **kwargs):
        self.inputs: dict[nn.Module, torch.Tensor] = {}
        self.outputs: dict[nn.Module, torch.Tensor] = {}

        def record(module, args, kwargs, output):
            first = args[0] if args else kwargs.get("hidden_states")
            self.inputs[module] = first.detach().clone() if isinstance(first, torch.Tensor) else None
            output = output[0] if isinstance(output, tuple) else output
            self.outputs[module] = output.detach().clone() if isinstance(output, torch.Tensor) else None

        handles = [module.register_forward_hook(record, with_kwargs=True) for module in model.modules()]
        with torch.no_grad():
            self.result = model(*args, **kwargs)
        for handle in handles:
            handle.remove()


def expected_tensors(model, family: Family, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every site's tensor, recomputed from its neighbours; asserts on the way that they fit together."""
    tape = Tape(model, input_ids=ids, attention_mask=mask, output_hidden_states=True)
    decoder = model.get_submodule(family.decoder)
    layers = decoder.get_submodule(family.layers)
    norm = decoder.get_submodule(family.norm)
    embedding = F.embedding(ids, decoder.get_submodule(family.embedding).weight) * family.scale
    if family.positions is None:
        assert torch.equal(tape.inputs[layers[0]], embedding)
    else:
        positions = tape.outputs[decoder.get_submodule(family.positions)]
        assert torch.equal(tape.inputs[layers[0]], embedding + positions)
    tensors = {"embedding_output": embedding, "final_layernorm": tape.result.hidden_states[-1]}

    for i, layer in enumerate(layers):
        attention, mlp = layer.get_submodule(family.attention), layer.get_submodule(family.mlp)
        query, output = attention.get_submodule(family.query), attention.get_submodule(family.output)
        up, down = mlp.get_submodule(family.up), mlp.get_submodule(family.down)
        attn_output, mlp_output = output(tape.inputs[output]), down(tape.inputs[down])
        hidden = tape.inputs[layers[i + 1] if i + 1 < N_LAYERS else norm]  # what reads the residual stream next

        # What was added to the residual stream, in the order of the layer.
        into = [layer.get_submodule(name) if name else nn.Identity() for name in family.norms]
        assert torch.equal(tape.inputs[layer] + into[0](attn_output) + into[1](mlp_output), hidden)
        here = {
            "attn_input": tape.inputs[query],
            "o_input": tape.inputs[output],
            "attn_output": attn_output,
            "mlp_input": tape.inputs[mlp],
            "mlp_act": tape.inputs[down],
            "mlp_output": mlp_output,
            "hidden": hidden,
        }
        if family.gate is not None:
            projected = mlp.get_submodule(family.gate)(tape.inputs[mlp])
            here["mlp_gate"], up_output = projected.chunk(2, -1) if family.fused else (projected, up(tape.inputs[mlp]))
            assert torch.equal(family.act(here["mlp_gate"]) * up_output, tape.inputs[down])
        tensors |= {f"layer_{i}_{kind}": tensor.detach() for kind, tensor in here.items()}
    return tensors


@every_family
def test_default_sites_are_those_written_down(model_type):
    family = FAMILIES[model_type]
    assert [site.name for site in find_sites(tiny(model_type)).sites] == names_of(family, family.default_kinds())


@every_family
def test_gemm_sites_are_those_written_down(model_type):
    family = FAMILIES[model_type]
    assert [site.name for site in find_sites(tiny(model_type), "gemm").sites] == names_of(family, family.gemm_kinds())


@every_family
def test_every_site_sees_the_tensor_its_name_promises(model_type):
    family, model = FAMILIES[model_type], tiny(model_type)
    ids = random_ids(2, 7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    token_ids = torch.tensor([[0], [1]]) << 32 | torch.arange(7)
    with torch.no_grad():
        expected = expected_tensors(model, family, ids, mask)
        with attach(model, "gemm", topk=9) as probe:
            model(input_ids=ids, attention_mask=mask)
    assert set(probe.states) == set(expected)
    for name, x in expected.items():
        state = fused_probe(x.contiguous(), mask=mask.bool(), token_ids=token_ids, topk=9)
        assert state.summary().absmax > 0
        assert torch.equal(probe.states[name].buffer, state.buffer), name


@every_family
def test_final_layernorm_is_the_last_hidden_state(model_type):
    model, ids = tiny(model_type), random_ids(2, 5)
    decoder = model.get_submodule(FAMILIES[model_type].decoder)
    with torch.no_grad(), attach(model, ["final_layernorm"]) as probe:
        last = decoder(input_ids=ids).last_hidden_state
    token_ids = torch.tensor([[0], [1]]) << 32 | torch.arange(5)
    assert torch.equal(probe.states["final_layernorm"].buffer, fused_probe(last, token_ids=token_ids).buffer)


def test_fused_gate_is_the_first_half_of_the_features():
    sites = {site.name: site for site in find_sites(tiny("phi3")).sites}
    assert sites["layer_1_mlp_gate"].path == "model.layers.1.mlp.gate_up_proj"
    assert sites["layer_1_mlp_gate"].first_half
    with torch.no_grad(), attach(model := tiny("phi3"), ["*_mlp_gate"]) as probe:
        model(random_ids(1, 3))
    assert probe.states["layer_1_mlp_gate"].d == INNER


def test_layers_are_found_by_name_where_the_class_names_no_recorders():
    model = tiny("llama")
    known = find_sites(model, "gemm")
    model.model._can_record_outputs = None
    assert find_sites(model, "gemm") == known


def test_layers_are_found_by_their_recorder_under_any_name():
    model = tiny("llama")
    model.model.stages = model.model.layers
    del model.model.layers
    site_map = find_sites(model)
    assert site_map.layers == "model.stages"
    assert [site.name for site in site_map.sites] == names_of(FAMILIES["llama"], FAMILIES["llama"].default_kinds())


def test_attention_of_a_recorder_with_a_path_is_not_the_cross_attention():
    model = tiny("gpt2", add_cross_attention=True)
    for block in model.transformer.h:  # so that not the order alone decides
        block._modules["attn"] = block._modules.pop("attn")
    paths = [site.path for site in find_sites(model, ["*_attn_output"]).sites]
    assert paths == [f"transformer.h.{i}.attn" for i in range(N_LAYERS)]


def test_a_base_model_without_head_has_the_same_sites():
    model = tiny("llama")
    whole, base = find_sites(model), find_sites(model.model)
    assert base.decoder == "" and base.layers == "layers"
    assert [site.name for site in base.sites] == [site.name for site in whole.sites]
    assert [f"model.{site.path}" for site in base.sites] == [site.path for site in whole.sites]


def test_any_module_with_a_list_of_layers_will_do():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.ffn = nn.Linear(4, 4), nn.Sequential()
            self.ffn.w1, self.ffn.w2 = nn.Linear(4, 8), nn.Linear(8, 4)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.Module()
            self.stack.blocks = nn.ModuleList([Block(), Block()])

    site_map = find_sites(Plain(), "gemm")
    assert site_map.layers == "stack.blocks"
    # w1 is not a gate without a w3 beside it.
    assert {site.kind for site in site_map.sites} == {"attn_output", "mlp_input", "mlp_act", "mlp_output", "hidden"}
    assert site_map.notes["embedding_output"] == "Plain.get_input_embeddings() names no module"
    assert "no final norm in Plain" in site_map.notes["final_layernorm"]


def test_kinds_that_a_model_lacks_are_noted_with_a_reason():
    notes = find_sites(tiny("gpt2")).notes
    looked_for = ", ".join(NAMES["gate projection"])
    assert notes["mlp_gate"] == f"no gate projection in GPT2MLP (looked for {looked_for})"
    assert notes["moe_gate"] == "no router in GPT2MLP (looked for gate, router)"
    assert {kind for kind, note in notes.items() if not note} == {
        "embedding_output", "attn_output", "mlp_output", "hidden", "final_layernorm"
    }  # fmt: skip


def test_layers_that_lack_a_part_are_noted_by_number():
    model = tiny("llama", num_hidden_layers=6)
    for i in (0, 1, 2, 4):
        del model.model.layers[i].mlp
    site_map = find_sites(model)
    assert "layer_1_mlp_output" not in [site.name for site in site_map.sites]
    assert site_map.notes["mlp_output"] == "layers 0-2, 4: no MLP in LlamaDecoderLayer"


def test_names_and_patterns_choose_sites_in_the_order_of_the_model():
    site_map = find_sites(tiny("llama"), ["final_layernorm", "layer_1_mlp_act", "layer_[02]_hidden", "layer_0_*en"])
    assert [site.name for site in site_map.sites] == [
        "layer_0_hidden", "layer_1_mlp_act", "layer_2_hidden", "final_layernorm"
    ]  # fmt: skip
    assert set(site_map.notes) == {"hidden", "mlp_act", "final_layernorm"}


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        ("everything", "sites: 'everything', expected \"default\", \"gemm\" or a list of site names and patterns"),
        ([], r"sites: \[\], expected at least one site name or pattern"),
        ([3], r"sites: \[3\], expected at least one site name or pattern"),
        (["final_layernorm", "layer_9_hidden"],
         "sites: 'layer_9_hidden' matches no site of LlamaForCausalLM; it has embedding_output, layer_.*, final_lay"),
        (["*_router"], "sites: '\\*_router' matches no site of LlamaForCausalLM"),
    ],
)  # fmt: skip
def test_a_choice_of_sites_that_means_nothing_is_an_error(sites, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        find_sites(tiny("llama"), sites)


def test_a_model_without_layers_is_an_error_that_says_what_was_looked_for():
    with pytest.raises(ValueError, match=(
        "^Linear: no layers found; looked in Linear for a ModuleList of the class that _can_record_outputs names, then "
        "for one named layers, h, blocks, block, layer$"
    )):  # fmt: skip
        find_sites(nn.Linear(2, 2))


def test_fewer_layers_than_the_config_says_is_an_error():
    model = tiny("llama")
    model.model.layers = model.model.layers[:2]
    with pytest.raises(ValueError, match="^LlamaForCausalLM: 2 layers found in model.layers, but config.num_hid"):
        find_sites(model)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_router_sites_hold_the_logits_of_flattened_tokens(model_type):
    changes = {"mixtral": dict(num_local_experts=4), "qwen3_moe": dict(num_experts=4, moe_intermediate_size=32)}
    model, ids = tiny(model_type, num_experts_per_tok=2, **changes[model_type]), random_ids(2, 5)
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    with torch.no_grad(), attach(model) as probe:
        logits = model(ids, attention_mask=mask, output_router_logits=True).router_logits
    token_ids = torch.tensor([[0], [1]]) << 32 | torch.arange(5)
    assert logits[0].shape == (10, 4)
    for i in range(N_LAYERS):
        state = fused_probe(logits[i].view(2, 5, 4), mask=mask.bool(), token_ids=token_ids)
        assert torch.equal(probe.states[f"layer_{i}_moe_gate"].buffer, state.buffer)


def test_what_torch_compile_wraps_is_stepped_through():
    plain, layers, whole = tiny("llama"), tiny("llama"), tiny("llama")
    for i, layer in enumerate(layers.model.layers):
        layers.model.layers[i] = torch.compile(layer)
    whole = torch.compile(whole)
    expected = find_sites(plain, "gemm").sites
    for model in (layers, whole):
        sites = find_sites(model, "gemm").sites
        assert [site.name for site in sites] == [site.name for site in expected]
        assert [site.path.replace("_orig_mod.", "").replace("._orig_mod", "") for site in sites] == [
            site.path for site in expected
        ]
        assert not any(hasattr(model.get_submodule(site.path), "_orig_mod") for site in sites)

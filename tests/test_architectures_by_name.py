"""Models that bring their own code say nothing of their parts: the names in them must suffice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maxact.hooks import attach
from maxact.sites import find_sites
from maxact_kernels import fused_probe

VOCAB, HIDDEN, INNER, N_EXPERTS, TOP_K = 40, 16, 24, 4, 2


class Named(nn.Module):
    """A module with these children and nothing to say."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class SwiGLU(Named):
    def __init__(self):
        super().__init__(
            gate_proj=nn.Linear(HIDDEN, INNER), up_proj=nn.Linear(HIDDEN, INNER), down_proj=nn.Linear(INNER, HIDDEN)
        )

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    """As Ling's and Moonlight's: indices first, the logits last or not at all."""

    def __init__(self, gives_logits: bool = True):
        super().__init__()
        self.weight, self.gives_logits = nn.Parameter(torch.randn(N_EXPERTS, HIDDEN)), gives_logits

    def forward(self, hidden_states):
        logits = F.linear(hidden_states.view(-1, HIDDEN), self.weight)
        weights, indices = torch.topk(logits.sigmoid(), TOP_K)
        return (indices, weights, logits) if self.gives_logits else (indices, weights, None)


class MoE(Named):
    def __init__(self, gives_logits: bool):
        super().__init__(
            gate=Gate(gives_logits),
            experts=nn.ModuleList(SwiGLU() for _ in range(N_EXPERTS)),
            shared_experts=SwiGLU(),
        )

    def forward(self, x):
        indices, weights, logits = self.gate(x)
        y = torch.zeros_like(x).view(-1, HIDDEN)
        for e, expert in enumerate(self.experts):
            row, k = (indices == e).nonzero(as_tuple=True)
            y = y.index_add(0, row, expert(x.view(-1, HIDDEN)[row]) * weights[row, k, None])
        return y.view_as(x) + self.shared_experts(x), (logits, indices)


class Attention(Named):
    def __init__(self):
        super().__init__(query_key_value=nn.Linear(HIDDEN, 3 * HIDDEN), dense=nn.Linear(HIDDEN, HIDDEN))

    def forward(self, hidden_states):
        q, k, v = self.query_key_value(hidden_states).chunk(3, -1)
        return self.dense(F.scaled_dot_product_attention(q, k, v, is_causal=True)), None, None


class BailingLayer(Named):
    def __init__(self, mlp: nn.Module):
        super().__init__(
            attention=Attention(),
            mlp=mlp,
            input_layernorm=nn.LayerNorm(HIDDEN),
            post_attention_layernorm=nn.LayerNorm(HIDDEN),
        )

    def forward(self, hidden_states):
        x = hidden_states + self.attention(self.input_layernorm(hidden_states))[0]
        y = self.mlp(self.post_attention_layernorm(x))
        return (x + (y[0] if isinstance(y, tuple) else y),)


class Bailing(nn.Module):
    """The names of Ling (bailing_moe) where it is remote code: a dense layer, then one of experts."""

    def __init__(self, gives_logits: bool = True):
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2)
        layers = nn.ModuleList([BailingLayer(SwiGLU()), BailingLayer(MoE(gives_logits))])
        self.model = Named(word_embeddings=nn.Embedding(VOCAB, HIDDEN), layers=layers, norm=nn.LayerNorm(HIDDEN))
        self.lm_head = nn.Linear(HIDDEN, VOCAB)

    def get_input_embeddings(self):
        return self.model.word_embeddings

    def forward(self, input_ids, attention_mask=None):
        x = self.model.word_embeddings(input_ids)
        for layer in self.model.layers:
            (x,) = layer(x)
        return self.lm_head(self.model.norm(x))


@pytest.fixture
def bailing():
    torch.manual_seed(0)
    return Bailing()


def test_bailing_has_all_sites_by_names_alone(bailing):
    assert [site.name for site in find_sites(bailing, "gemm").sites] == [
        "embedding_output",
        *(f"layer_0_{kind}" for kind in (
            "attn_input", "o_input", "attn_output", "mlp_input", "mlp_gate", "mlp_act", "mlp_output", "hidden"
        )),
        *(f"layer_1_{kind}" for kind in (
            "attn_input", "o_input", "attn_output", "moe_gate", "shared_expert_gate", "shared_expert_act",
            "shared_expert_output", "mlp_output", "hidden",
        )),
        "final_layernorm",
    ]  # fmt: skip


def test_bailing_sites_see_the_tensors_that_their_names_promise(bailing):
    ids, model = torch.arange(12).view(2, 6), bailing.model
    with torch.no_grad(), attach(bailing, "gemm") as probe:
        bailing(ids)
    probe.check()
    with torch.no_grad():
        x = model.word_embeddings(ids)
        first, second = model.layers
        (hidden,) = first(x)
        attended = second.attention(second.input_layernorm(hidden))[0]
        normed = second.post_attention_layernorm(hidden + attended)
        expected = {
            "embedding_output": x,
            "layer_0_hidden": hidden,
            "layer_1_attn_output": attended,
            "layer_1_moe_gate": second.mlp.gate(normed)[2].view(2, 6, N_EXPERTS),
            "layer_1_shared_expert_output": second.mlp.shared_experts(normed),
            "layer_1_mlp_output": second.mlp(normed)[0],
            "layer_1_hidden": second(hidden)[0],
            "final_layernorm": model.norm(second(hidden)[0]),
        }
    token_ids = torch.tensor([[0], [1]]) << 32 | torch.arange(6)
    for name, tensor in expected.items():
        assert torch.equal(probe.states[name].buffer, fused_probe(tensor, token_ids=token_ids).buffer), name


def test_a_router_that_keeps_its_logits_to_itself_is_an_error():
    model = Bailing(gives_logits=False)
    with torch.no_grad(), attach(model), pytest.raises(TypeError, match=(
        r"^layer_1_moe_gate: model.layers.1.mlp.gate gives no logits \(no floating-point tensor of 4 features\); choose "
        "sites without it$"
    )):  # fmt: skip
        model(torch.arange(6).view(1, 6))


def test_a_router_that_gives_probabilities_is_an_error(bailing):
    gate = bailing.model.layers[1].mlp.gate
    gate.forward = lambda x, forward=gate.forward: (*forward(x)[:2], forward(x)[2].softmax(-1))
    with torch.no_grad(), attach(bailing) as probe:
        bailing(torch.arange(12).view(2, 6))
    with pytest.raises(RuntimeError, match=(
        "^layer_1_moe_gate: what model.layers.1.mlp.gate gives lies between 0 and 1: probabilities, not logits; choose "
    )):  # fmt: skip
        probe.check()


def linear() -> nn.Linear:
    return nn.Linear(HIDDEN, HIDDEN)


REMOTE = {
    "Qwen 1": (
        "h",
        dict(attn=Named(c_attn=linear(), c_proj=linear()), mlp=Named(w1=linear(), w2=linear(), c_proj=linear())),
        ["attn_input attn.c_attn", "o_input attn.c_proj", "attn_output attn", "mlp_input mlp.w1",
         "mlp_act mlp.c_proj", "mlp_output mlp", "hidden "],
    ),
    "Baichuan": (
        "layers",
        dict(self_attn=Named(W_pack=linear(), o_proj=linear()), mlp=SwiGLU()),
        ["attn_input self_attn.W_pack", "o_input self_attn.o_proj", "attn_output self_attn", "mlp_input mlp.up_proj",
         "mlp_gate mlp.gate_proj", "mlp_act mlp.down_proj", "mlp_output mlp", "hidden "],
    ),
    "InternLM 2": (
        "layers",
        dict(attention=Named(wqkv=linear(), wo=linear()), feed_forward=Named(w1=linear(), w3=linear(), w2=linear())),
        ["attn_input attention.wqkv", "o_input attention.wo", "attn_output attention", "mlp_input feed_forward.w1",
         "mlp_gate feed_forward.w1", "mlp_act feed_forward.w2", "mlp_output feed_forward", "hidden "],
    ),
    "ChatGLM": (
        "layers",
        dict(self_attention=Named(query_key_value=linear(), dense=linear()),
             mlp=Named(dense_h_to_4h=linear(), dense_4h_to_h=linear())),
        ["attn_input self_attention.query_key_value", "o_input self_attention.dense", "attn_output self_attention",
         "mlp_input mlp.dense_h_to_4h", "mlp_act mlp.dense_4h_to_h", "mlp_output mlp", "hidden "],
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", REMOTE)
def test_layers_of_other_remote_code_are_found_by_names(model):
    layers, parts, expected = REMOTE[model]
    root = Named(transformer=Named(**{layers: nn.ModuleList([Named(**parts), Named(**parts)])}))
    sites = [site for site in find_sites(root, "gemm").sites if site.layer == 1]
    assert [
        f"{site.kind} {site.path.removeprefix(f'transformer.{layers}.1').lstrip('.')}" for site in sites
    ] == expected

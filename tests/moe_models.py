"""Tiny random models with experts, one row a family, and what their experts compute: written down by hand."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from tiny_models import tiny
from torch.nn import functional as F

N_EXPERTS, TOP_K, D_EXPERT = 6, 2, 32
IMPLEMENTATIONS = ("grouped_mm", "batched_mm", "eager")


def gated(experts, x: torch.Tensor, e: int) -> torch.Tensor:
    gate, up = (x @ experts.gate_up_proj[e].T).chunk(2, dim=-1)
    return F.silu(gate) * up


def gpt_oss(experts, x: torch.Tensor, e: int) -> torch.Tensor:
    both = x @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
    gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
    return (up + 1) * gate * torch.sigmoid(1.702 * gate)


def squared(experts, x: torch.Tensor, e: int) -> torch.Tensor:
    return F.relu(x @ experts.up_proj[e].T) ** 2


class Moe(NamedTuple):
    config: dict
    product: Callable  # of an expert for some tokens: what its down projection is given
    experts: str = "mlp.experts"
    layers: tuple[int, ...] = (0, 1, 2)  # that have experts


_LATENT = dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16)
_SIX = dict(num_experts_per_tok=TOP_K, moe_intermediate_size=D_EXPERT, head_dim=16)
MOES = {
    "qwen3_moe": Moe(dict(num_experts=N_EXPERTS, decoder_sparse_step=1, **_SIX), gated),
    "mixtral": Moe(dict(num_local_experts=N_EXPERTS, intermediate_size=D_EXPERT, num_experts_per_tok=TOP_K), gated),
    "gpt_oss": Moe(dict(num_local_experts=N_EXPERTS, intermediate_size=D_EXPERT, num_experts_per_tok=TOP_K, head_dim=16,
                        rope_parameters=dict(rope_type="default", rope_theta=10000.0)), gpt_oss),
    "deepseek_v3": Moe(dict(n_routed_experts=N_EXPERTS, n_group=2, topk_group=1, first_k_dense_replace=1,
                            num_key_value_heads=4, **_LATENT, **_SIX | dict(head_dim=8)), gated, layers=(1, 2)),
    "nemotron_h": Moe(dict(n_routed_experts=N_EXPERTS, layers_block_type=["attention", "moe", "moe"], n_group=1, topk_group=1,
                           moe_shared_expert_intermediate_size=32, **_SIX), squared, "mixer.experts", (1, 2)),
}  # fmt: skip


def tiny_moe(model_type: str, implementation: str | None = None, dtype: torch.dtype = torch.float32):
    model = tiny(model_type, dtype, **MOES[model_type].config)
    if implementation:
        model.set_experts_implementation(implementation)
    return model


def experts_of(model, model_type: str) -> dict[int, torch.nn.Module]:
    moe = MOES[model_type]
    return {i: model.model.layers[i].get_submodule(moe.experts) for i in moe.layers}


class Row(NamedTuple):
    """One token at one of its experts."""

    sample: int
    position: int
    expert: int
    product: torch.Tensor


@torch.no_grad()
def routed_rows(model, model_type: str, mask: torch.Tensor | None = None, **batch) -> dict[int, list[Row]]:
    """By layer, each token that counts at each of its experts, one by one, from what the router chose."""
    rows: dict[int, list[Row]] = {}

    def hook(layer, experts, args, kwargs):
        hidden, index = (*args, *kwargs.values())[:2]
        n = batch["input_ids"].shape[1]
        keep = torch.ones_like(batch["input_ids"]) if mask is None else mask
        rows[layer] = [
            Row(t // n, int(keep[t // n, : t % n].sum()), e, MOES[model_type].product(experts, hidden[t : t + 1], e)[0])
            for t in range(len(hidden))
            for e in index[t].tolist()
            if keep[t // n, t % n]
        ]

    handles = [
        experts.register_forward_pre_hook(partial(hook, layer), with_kwargs=True)
        for layer, experts in experts_of(model, model_type).items()
    ]
    model(attention_mask=mask, **batch)
    for handle in handles:
        handle.remove()
    return rows

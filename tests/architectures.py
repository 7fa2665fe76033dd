"""A tiny random model of any type that transformers knows: its config with every size made small."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

N_LAYERS, HIDDEN, N_HEADS, VOCAB = 4, 32, 4, 64

# Under the names that configs have for them.
SIZES = (
    (
        N_LAYERS,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers "
        "num_decoder_layers",
    ),
    (
        HIDDEN,
        "hidden_size n_embd d_model embed_dim dim word_embed_proj_dim embedding_size lru_width attention_hidden_size "
        "projection_dim out_hidden_size emb_dim",
    ),
    (
        N_HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads encoder_layers_attention_heads",
    ),
    (
        2,
        "num_key_value_heads kv_n_heads num_experts_per_tok moe_k moe_topk moe_top_k top_k_experts num_local_experts_per_tok",
    ),
    (VOCAB, "vocab_size text_vocab_size vocab_size_per_layer_input"),
    (
        48,
        "intermediate_size ffn_dim d_ff n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_inner mlp_dim "
        "intermediate_dim",
    ),
    (
        24,
        "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size",
    ),
    (
        8,
        "head_dim d_kv attention_head_size kv_channels v_head_dim head_size mamba_d_head mamba_head_dim mamba_headdim "
        "qk_rope_head_dim qk_nope_head_dim rotary_dim",
    ),
    (16, "q_lora_rank kv_lora_rank"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts"),
    (64, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length"),
)
SMALL = {name: size for size, names in SIZES for name in names.split()}
LAYERWISE = ("layer_types", "layers_block_type", "mlp_layer_types")
HEADS = ("SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MASKED_LM", "")


_MROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1]))
_HALF_MROPE = dict(
    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 0])
)
_INDEXER = dict(
    indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=4, indexer_compress_ratio=2, hc_count=2
)

# What a config needs besides.
CHANGES = {
    "bamba": dict(mamba_n_heads=8, attn_layer_indices=[1, 3]),
    "blenderbot": dict(encoder_layers=4),
    "granitemoehybrid": dict(mamba_n_heads=8, layer_types=["mamba", "attention"] * 2),
    "gemma3n_text": dict(num_kv_shared_layers=0, intermediate_size=48, hidden_size_per_layer_input=8),
    "gpt_neo": dict(attention_types=[[["global", "local"], 2]]),
    "hunyuan_v1_dense": dict(head_dim=8),
    "hunyuan_v1_moe": dict(head_dim=8, num_experts=4, moe_topk=2),
    "ministral": dict(head_dim=8),
    "mamba2": dict(num_heads=8),
    "nemotron": dict(num_key_value_heads=2),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"] * 2),
    "esmc": dict(num_key_value_heads=4),
    "deepseek_v3": dict(n_group=2, topk_group=1),
    "kimi_linear": dict(num_experts_per_token=2, num_expert_group=2, topk_group=1),
    "axk1": dict(n_group=2, topk_group=1),
    "bailing_hybrid": dict(num_experts_per_tok=2, num_expert_group=2, topk_group=1),
    "beam": dict(n_group=2, topk_group=1),
    "falcon_h1": dict(mamba_chunk_size=8, mamba_d_state=16),
    "glm5_next": dict(text_config=dict(linear_num_heads=2, linear_head_dim=8)),
    "deepseek_v32": dict(n_group=2, topk_group=1, index_n_heads=2, index_head_dim=16, index_topk=4),
    "glm_moe_dsa": dict(index_n_heads=2, index_head_dim=16, index_topk=4),
    "esm": dict(vocab_size=64, pad_token_id=1, mask_token_id=4),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "qwen2_vl": dict(text_config=_MROPE),
    "qwen2_5_vl": dict(text_config=_MROPE),
    "xmod": dict(default_language="en_XX"),
    "dbrx": dict(
        attn_config=dict(rope_theta=10000.0, kv_n_heads=2, clip_qkv=8.0),
        ffn_config=dict(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2),
    ),
    "dots1": dict(n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, n_group=2, topk_group=1),
    "gemma4_text": dict(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=24),
    "granitemoeshared": dict(shared_intermediate_size=24),
    "qwen4_exp_text": dict(
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=4,
        indexer_compress_ratio=2,
        hc_count=2,
    ),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1),
    "zamba": dict(attention_hidden_size=64, attention_head_dim=16, num_key_value_heads=4),
    "zamba2": dict(
        attention_hidden_size=64, attention_head_dim=16, n_mamba_heads=2, mamba_headdim=32, num_key_value_heads=4
    ),
    "xlstm": dict(embedding_dim=32, num_blocks=4, chunk_size=8, qk_dim_factor=1.0),
    "mistral4": dict(head_dim=16),
    "kimi_k25": dict(text_config=dict(n_group=2, topk_group=1)),
    "step3p7": dict(text_config=dict(sliding_window=16)),
    "qwen2_5_omni_thinker": dict(text_config=_MROPE, vision_start_token_id=60),
    "qwen3_omni_moe_thinker": dict(vision_start_token_id=60),
    "glm4v": dict(text_config=_MROPE),
    "glm4v_moe": dict(text_config=_HALF_MROPE),
    "glm_ocr": dict(text_config=_HALF_MROPE),
    "glm46v": dict(text_config=_HALF_MROPE),
    "glmga": dict(text_config=_HALF_MROPE),
    "paddleocr_vl": dict(text_config=_MROPE),
}


def model_class(model_type: str) -> type[PreTrainedModel]:
    import transformers

    for head in HEADS:
        names = getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES" if head else "MODEL_MAPPING_NAMES")
        if model_type in names:
            name = names[model_type]
            return getattr(transformers, name if isinstance(name, str) else name[0])
    raise KeyError(model_type)


def is_known(model_type: str) -> bool:
    try:
        return bool(model_class(model_type.partition(":")[0]))
    except KeyError:
        return False


def shrink(config: PreTrainedConfig) -> dict:
    """What to change in a config, sub-configs included."""
    changes = {}
    for name, value in config.to_dict().items():
        try:
            sub = getattr(config, name, None)
        except Exception:
            sub = None
        if isinstance(sub, PreTrainedConfig):
            changes[name] = shrink(sub)
        elif isinstance(value, bool):
            continue
        elif name.endswith("_token_id") and isinstance(value, int):
            changes[name] = (
                value
                if value < VOCAB
                else {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, VOCAB - 1)
            )
        elif name in SMALL and isinstance(value, int):
            changes[name] = min(SMALL[name], value)
        elif name in LAYERWISE and isinstance(value, list):
            changes[name] = (list(dict.fromkeys(value)) * N_LAYERS)[:N_LAYERS]
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict) and "mrope_section" in value:
            n = int(4 * (value.get("partial_rotary_factor") or 1))
            changes[name] = value | dict(mrope_section=[n - 2 * (n // 3), n // 3, n // 3])
    if "kv_lora_rank" in changes and "num_key_value_heads" in changes:
        changes["num_key_value_heads"] = N_HEADS
    return changes


def tiny(model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of this type, the same each time; of "t5:encoder" the encoder alone."""
    model_type, _, part = model_type.partition(":")
    cls = model_class(model_type)
    changes = shrink(cls.config_class())
    for name, value in CHANGES.get(model_type, {}).items():
        changes[name] = changes[name] | value if isinstance(changes.get(name), dict) else value
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls._from_config(cls.config_class(**changes), dtype=dtype, attn_implementation="eager")
        for parameter in model.parameters():  # the library's own deviation of 0.02 would leave every layer near zero
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            else:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return (model.get_encoder() if part else model).eval()

"""What each model type should show, written down: one row for those that are alike."""

from __future__ import annotations

from functools import partial

from encoder_table import ENCODER_ROWS
from expected_sites import Architecture

_moe = partial(Architecture, kinds="qoarm", down=None)

_vl = partial(Architecture, layers="model.language_model.layers", norm="model.language_model.norm")

_gpt = partial(Architecture, kinds="qoaidm", layers="transformer.h", norm="transformer.ln_f")

_ROWS = {
    (
        "cohere cohere2 cwm diffllama emu3 ernie4_5 glm granite granite_swa helium internlm3 iquestcoder llama "
        "ministral3 mistral olmo phi3 phi4_multimodal qwen2 qwen3 qwen3_5 qwen3_5_text seed_oss smollm3 stablelm "
        "youtu evolla eurobert ultrabert hunyuan_v1_dense ministral higgs_audio_v2"
    ): Architecture(),
    "afmoe": Architecture(kinds="qoaigdm,3*qoarGDSm", added="+a~post_attention_layernorm +m~post_mlp_layernorm"),
    "apertus arcee jais2 nemotron": Architecture(kinds="qoaidm"),
    (
        "aria_text deepseek_v2 llama4 llama4_text minimax_m3_vl_text qwen2_moe qwen3_5_moe qwen3_5_moe_text "
        "qwen3_next solar_open mistral4 dots1 hunyuan_v1_moe"
    ): _moe(kinds="qoarGDSm"),
    (
        "axk1 axk2 bailing_hybrid exaone_moe glm4_moe_lite hy_v3 kimi_linear laguna deepseek_v32 glm_moe_dsa "
        "dots3_note_text"
    ): Architecture(kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm"),
    "beam": Architecture(kinds="qoaigdm,qoarm,qoaigdm,qoarm", added=None, why="scaled"),
    "biogpt": _gpt(down="fc2", layers="biogpt.layers", norm="biogpt.layer_norm"),
    "bitnet": Architecture(gated=None),
    "bloom falcon": _gpt(down="mlp.dense_4h_to_h"),
    "codegen gptj": _gpt(down="mlp.fc_out"),
    "cohere2_moe gpt_oss granitemoe granitemoe_swa mellum minimax_m2 mixtral olmoe phimoe qwen3_moe": _moe(),
    "ctrl": _gpt(kinds="qoam", down=None, norm="transformer.layernorm"),
    "deepseek_v3": Architecture(kinds="3*qoaigdm,qoarGDSm"),
    "deepseek_v4": _moe(kinds="qoarGDSm", added=None, merged=True, why="several streams"),
    "doge minicpm3": Architecture(added=None, why="scaled"),
    "ernie4_5_moe glm4_moe": Architecture(kinds="qoaigdm,3*qoarGDSm"),
    "exaone4 olmo2 olmo3": Architecture(added="+a~post_attention_layernorm +m~post_feedforward_layernorm"),
    "falcon_h1": Architecture(
        kinds="qoaQOAigdm", added="+a +A +m", down="feed_forward.down_proj", norm="model.final_layernorm"
    ),
    "falcon_mamba mamba mamba2": _moe(kinds="qoa", added="+a", layers="backbone.layers", norm="backbone.norm_f"),
    "flex_olmo": _moe(added="+a~post_attention_layernorm +m~post_feedforward_layernorm"),
    "flint": Architecture(kinds="2*qoaigdm,2*qoarGDSm"),
    "fuyu": _vl(kinds="qoaidm", down="mlp.dense_4h_to_h", norm="model.language_model.final_layernorm"),
    "gemma vaultgemma": Architecture(gated="tanh"),
    "gemma2 gemma3_text gemma4_unified_text": Architecture(
        added="+a~post_attention_layernorm +m~post_feedforward_layernorm", gated="tanh"
    ),
    "gemma3 gemma4_unified shieldgemma2": _vl(
        added="+a~post_attention_layernorm +m~post_feedforward_layernorm", gated="tanh"
    ),
    "glm4": Architecture(added="+a~post_self_attn_layernorm +m~post_mlp_layernorm"),
    (
        "got_ocr2 moss_transcribe_diarize aya_vision cohere2_vision cosmos3_omni deepseek_vl deepseek_vl_hybrid "
        "internvl lighton_ocr llava llava_next llava_next_video llava_onevision minicpm_ocr minicpmv4_6 minicpmv4_7 "
        "mistral3 ovis2 paddleocr_vl pp_chart2table qianfan_ocr qwen2_5_omni_thinker qwen2_5_vl qwen2_vl qwen3_vl "
        "video_llama_3 video_llava vipllava audioflamingo3 glmasr qwen2_audio qwen3_asr voxtral vibevoice"
    ): _vl(),
    "gpt-sw3 gpt2 gpt_bigcode gpt_neo": _gpt(down="mlp.c_proj"),
    "gpt_neox": _gpt(down="mlp.dense_4h_to_h", layers="gpt_neox.layers", norm="gpt_neox.final_layer_norm"),
    "gpt_neox_japanese": _gpt(
        added=None,
        down="mlp.dense_4h_to_h",
        layers="gpt_neox_japanese.layers",
        norm="gpt_neox_japanese.final_layer_norm",
        why="a bias",
    ),
    "granitemoeshared granitemoehybrid": _moe(kinds="qoarGDSm", added="+a +S +m"),
    "hy_v4": Architecture(kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm", added=None, merged=True, why="several streams"),
    "hyperclovax": Architecture(added="+a~post_norm1 +m~post_norm2"),
    "inkling2_text": _moe(added=None, merged=True, why="a convolution between"),
    "inkling_text": _moe(kinds="qoarSm", added=None, router=False, why="a convolution between"),
    "jamba": Architecture(
        kinds="qoaigdm,qoarm,qoaigdm,qoarm", down="feed_forward.down_proj", norm="model.final_layernorm"
    ),
    "jetmoe": _moe(kinds="arm"),
    "kolibri1": _moe(kinds="qoarGDSm", added="+a~post_self_attn_layernorm +m~post_mlp_layernorm"),
    "lfm2": Architecture(down="feed_forward.w2", norm="model.embedding_norm"),
    "lfm3": Architecture(
        added="+a~post_operator_norm +m~post_ffn_norm", down="feed_forward.w2", norm="model.embedding_norm"
    ),
    "mimo_v2_flash": Architecture(kinds="qoaigdm,qoarm,qoaigdm,qoarm"),
    "minimax": _moe(added="|input_layernorm +a |post_attention_layernorm +m"),
    "modernbert-decoder modernbert": Architecture(down="mlp.Wo", norm="model.final_norm", gated="gelu"),
    "moshi": Architecture(kinds="qoaidm", down="mlp.fc2"),
    "mpt": _gpt(down="ffn.down_proj", layers="transformer.blocks", norm="transformer.norm_f"),
    "nanochat": Architecture(kinds="qoaidm", down="mlp.fc2", merged=True),
    "nemotron_h": Architecture(
        kinds="qoa,rDSm,qoa,idm", added="+a,+m,+a,+m", down="mixer.down_proj", norm="model.norm_f"
    ),
    "olmo_hybrid": Architecture(
        added="+a +m,+a~post_attention_layernorm +m~post_feedforward_layernorm,+a +m,+a~post_attention_layernorm +m~post_feedforward_layernorm",
    ),
    "openai-gpt": _gpt(added="+a |ln_1 +m |ln_2", down="mlp.c_proj", ends="e", norm=None),
    "persimmon": Architecture(kinds="qoaidm", down="mlp.dense_4h_to_h", norm="model.final_layernorm"),
    "phi": Architecture(kinds="qoaidm", down="mlp.fc2", norm="model.final_layernorm"),
    "recurrent_gemma": Architecture(down="mlp_block.down_proj", norm="model.final_norm", gated="tanh"),
    "roberta-prelayernorm": _gpt(
        down="output.dense", layers="roberta_prelayernorm.encoder.layer", norm="roberta_prelayernorm.LayerNorm"
    ),
    "rwkv": _moe(kinds="am", added="|pre_ln +a +m,3*+a +m", layers="rwkv.blocks", norm="rwkv.ln_out"),
    "starcoder2": Architecture(kinds="qoaidm", down="mlp.c_proj"),
    "xglm": Architecture(kinds="qoaidm", down="fc2", norm="model.layer_norm"),
    "xlm-roberta-xl": _gpt(down="output.dense", layers="roberta.encoder.layer", norm="roberta.encoder.LayerNorm"),
    "zamba": Architecture(
        kinds="qoa,qoaQOAigdm,qoa,qoaQOAigdm",
        added="+a,+A,+a,+A",
        down="shared_transf.feed_forward.down_proj",
        norm="model.final_layernorm",
        gated="gelu",
    ),
    "zamba2": Architecture(
        kinds="qoa,qoaQOAigdm,qoa,qoaQOAigdm",
        added="+a,+A,+a,+A",
        down="shared_transformer.feed_forward.down_proj",
        norm="model.final_layernorm",
        gated=None,
    ),
    "zaya": _moe(added=None, router=False, why="scaled"),
    "aria minimax_m3_vl": _vl(kinds="qoarGDSm", down=None),
    "glm46v glm4v glm_ocr glmga": _vl(added="+a~post_self_attn_layernorm +m~post_mlp_layernorm"),
    "glm4v_moe": _vl(kinds="qoaigdm,3*qoarGDSm"),
    "granite_docling": Architecture(
        added=None, layers="model.text_model.layers", norm="model.text_model.norm", why="scaled"
    ),
    "hyperclovax_vision_v2": _vl(added="+a~post_norm1 +m~post_norm2"),
    "idefics2 idefics3 smolvlm ultravbert": Architecture(
        layers="model.text_model.layers", norm="model.text_model.norm"
    ),
    "kimi_k25": _vl(kinds="3*qoaigdm,qoarGDSm"),
    "kosmos-2.5": _gpt(down="ffn.fc2", layers="text_model.model.layers", norm="text_model.model.layer_norm"),
    "lfm2_vl": _vl(down="feed_forward.w2", norm="model.language_model.embedding_norm"),
    "lfm3_vl": _vl(
        added="+a~post_operator_norm +m~post_ffn_norm",
        down="feed_forward.w2",
        norm="model.language_model.embedding_norm",
    ),
    "mistral_large4 step3p7": _vl(kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm"),
    "muse_glimmer": _vl(added="+a~post_attention_layernorm +m~post_feedforward_layernorm"),
    "paligemma": _vl(gated="tanh"),
    "qwen3_omni_moe_thinker qwen3_vl_moe": _vl(kinds="qoarm", down=None),
    "gte": Architecture(
        added="+a |post_attention_layernorm +m |post_mlp_layernorm",
        layers="gte.layers",
        ends="e",
        norm=None,
        gated="gelu",
    ),
    "modernvbert": Architecture(
        down="mlp.Wo", layers="model.text_model.layers", norm="model.text_model.final_norm", gated="gelu"
    ),
    "nomic_bert": Architecture(
        added="+a |post_attention_layernorm +m |post_mlp_layernorm", layers="nomic_bert.layers", ends="e", norm=None
    ),
    "bamba": Architecture(down="feed_forward.down_proj", norm="model.final_layernorm"),
    "gemma3n_text": Architecture(added=None, merged=True, gated="tanh", why="several streams"),
    "lfm2_moe": Architecture(kinds="2*qoaigdm,2*qoarm", down="feed_forward.w2", norm="model.embedding_norm"),
    "esmc": Architecture(added=None, layers="esmc.layers", norm="esmc.norm", why="scaled"),
    "dbrx": _moe(layers="transformer.blocks", norm="transformer.norm_f"),
    "qwen4_exp_text": _moe(kinds="qoarGDSm", added=None, ends="e", norm=None, merged=True, why="several streams"),
    "gemma4": _vl(added=None, merged=True, gated="tanh", why="scaled"),
    "cosmos3_edge": _vl(kinds="qoaidm", down="mlp.fc2"),
    "glm5_next": _vl(kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm", added=None, merged=True, why="several streams"),
    "esm": _gpt(down="output.dense", layers="esm.encoder.layer", norm="esm.encoder.emb_layer_norm_after"),
    "longcat_flash": Architecture(
        kinds="qoaQOAirgdm12M3", added=None, down="mlps.0.down_proj", why="experts on a shortcut"
    ),
    "gemma4_text": Architecture(kinds="qoairgdmM", added=None, merged=True, gated="tanh", why="scaled"),
    "clip_text_model tipsv2_text_model": _gpt(down="mlp.fc2", layers="encoder.layers", norm="final_layer_norm"),
    "cosmos3_edge_text": _gpt(down="mlp.fc2", layers="layers", norm="norm"),
    "glm5_next_text": Architecture(
        kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm",
        added=None,
        layers="layers",
        norm="norm",
        merged=True,
        why="several streams",
    ),
    "granite_docling_text": Architecture(added=None, layers="layers", norm="norm", why="scaled"),
    "imagegpt": _gpt(down="mlp.c_proj", layers="h", norm="ln_f"),
    "mistral_large4_text": Architecture(kinds="qoaigdm,qoarGDSm,qoaigdm,qoarGDSm", layers="layers", norm="norm"),
    "molmo2_text qwen3_vl_text": Architecture(layers="layers", norm="norm"),
    "muse_glimmer_text": Architecture(
        added="+a~post_attention_layernorm +m~post_feedforward_layernorm", layers="layers", norm="norm"
    ),
    "openai_privacy_filter qwen3_vl_moe_text": _moe(layers="layers", norm="norm"),
}
ARCHITECTURES = {name: row for names, row in (_ROWS | ENCODER_ROWS).items() for name in names.split()}

# Written down as they are in transformers 5.23, and otherwise before.
CHANGED = """
aria axk1 encoder-decoder encoder-decoder:encoder inkling_text longcat_flash minicpmv4_6 qwen2_5_omni_thinker
qwen3_omni_moe_thinker switch_transformers switch_transformers:encoder video_llama_3
""".split()

# Model types that are refused, and the sentence that says why.
REFUSED = {
    "albert": "1 layers found in albert.encoder.albert_layer_groups.0.albert_layers, but config.num_hidden_layers is 4",
    "cpmant": "embedding_output: a tensor of shape [2, 39, 32], expected [2, 7, d] or [14, d] like the tokens of this",
    "flaubert": "no layers found",
    "fsmt": "layer_0_attn_input: a tensor of shape",
    "funnel": "2 layers found in funnel.decoder.layers, but config.num_hidden_layers is 12",
    "hrm_text": "4 layers found in model.L_module.layers, but config.num_hidden_layers is 32",
    "led:encoder": "embedding_output: embed_tokens runs more than once in a forward pass",
    "longformer": "embedding_output: a tensor of shape [2, 512, 32], expected [2, 7, d] or [14, d] like the tokens of this",
    "mllama": "9 of 34 sites saw no tensor: layer_3_attn_input",
    "pegasus_x:encoder": "layer_0_attn_input: a tensor of shape [2, 512, 32], expected [2, 7, d] or [14, d] like the tokens",
    "prophetnet": "layer_0_attn_input: a tensor of shape [2, 21, 32], expected [2, 7, d] or [14, d] like the tokens of this",
    "squeezebert": "layer_0_attn_output: transformer.encoder.layers.0.attention has a dict as output, expected a tensor",
    "xlm": "no layers found",
    "xlnet": "embedding_output: a tensor of shape [7, 2, 32], expected [2, 7, d] or [14, d] like the tokens of this",
}

"""Encoders and encoder-decoder models: what each should show, one row for those that are alike."""

from __future__ import annotations

from functools import partial

from expected_sites import Architecture

_moe = partial(Architecture, kinds="qoarm", down=None)

_gpt = partial(Architecture, kinds="qoaidm", layers="transformer.h", norm="transformer.ln_f")

_bert = partial(
    Architecture,
    kinds="qoaidm",
    added="+a |attention.output.LayerNorm +m |output.LayerNorm",
    down="output.dense",
    layers="bert.encoder.layer",
    ends="e",
    norm=None,
)

_bart = partial(
    Architecture,
    kinds="qoaidm",
    added="+a |self_attn_layer_norm +m |final_layer_norm",
    down="fc2",
    layers="model.decoder.layers",
    ends="e",
    norm=None,
)

_t5 = partial(
    Architecture,
    kinds="qoacidm",
    added="+a +c +m",
    down="layer.2.DenseReluDense.wo",
    layers="decoder.block",
    norm="decoder.final_layer_norm",
)

ENCODER_ROWS = {
    "bart blenderbot-small marian mvp plbart": _bart(
        kinds="qoacidm", added="+a |self_attn_layer_norm +c |encoder_attn_layer_norm +m |final_layer_norm"
    ),
    "bert bert-generation big_bird": _bert(),
    "bigbird_pegasus": _bart(kinds="qoacidm", added="+a +c +m", merged=True),
    "blenderbot mbart pegasus m2m_100 pegasus_x": _t5(
        down="fc2", layers="model.decoder.layers", norm="model.decoder.layer_norm"
    ),
    "camembert roberta xlm-roberta": _bert(layers="roberta.encoder.layer"),
    "data2vec-text": _bert(layers="data2vec_text.encoder.layer"),
    "electra": _bert(layers="electra.encoder.layer"),
    "ernie": _bert(layers="ernie.encoder.layer"),
    "git": _bert(layers="git.encoder.layer"),
    "megatron-bert": _bert(added="+a +m", ends="ef", norm="bert.encoder.ln"),
    "opt": _bart(added="+a +m", ends="ef", norm="model.decoder.final_layer_norm"),
    "rembert": _bert(layers="rembert.encoder.layer"),
    "roc_bert": _bert(layers="roc_bert.encoder.layer"),
    "roformer": _bert(layers="roformer.encoder.layer"),
    "trocr": _bart(),
    "whisper": _bart(added="+a +m", ends="ef", norm="model.decoder.layer_norm"),
    "xmod": _bert(added=None, layers="roberta.encoder.layer", why="adapters"),
    "t5gemma2": Architecture(
        added="+a~post_self_attn_layernorm +m~post_feedforward_layernorm",
        layers="model.decoder.layers",
        norm="model.decoder.norm",
        gated="tanh",
    ),
    "encoder-decoder": _bert(layers="decoder.bert.encoder.layer"),
    "led": _bart(
        kinds="qoacidm",
        added="+a |self_attn_layer_norm +c |encoder_attn_layer_norm +m |final_layer_norm",
        layers="led.decoder.layers",
    ),
    "longt5 t5": _t5(),
    "mt5 umt5": _t5(kinds="qoacigdm", gated="tanh"),
    "nllb-moe": _bart(
        kinds="3*qoacidm,qoacrm", added="+a +c +m", down="ffn.fc2", ends="ef", norm="model.decoder.layer_norm"
    ),
    "seamless_m4t seamless_m4t_v2": _t5(down="ffn.fc2", layers="text_decoder.layers", norm="text_decoder.layer_norm"),
    "switch_transformers": _t5(kinds="qoacrm", down=None),
    "t5gemma": Architecture(
        kinds="qoacigdm",
        added="+a~post_self_attn_layernorm +c~post_cross_attn_layernorm +m~post_feedforward_layernorm",
        layers="model.decoder.layers",
        norm="model.decoder.norm",
        gated="tanh",
    ),
    "convbert": _bert(layers="convbert.encoder.layer"),
    "deberta deberta-v2": _bert(layers="deberta.encoder.layer"),
    "distilbert": _bert(
        added="+a |sa_layer_norm +m |output_layer_norm", down="ffn.lin2", layers="distilbert.transformer.layer"
    ),
    "fnet": _bert(kinds="idm", added=None, layers="fnet.encoder.layer", why="a Fourier transform"),
    "ibert": _bert(added=None, layers="ibert.encoder.layer", why="integer arithmetic"),
    "jina_embeddings_v3": _bert(
        added="+a |post_attention_layernorm +m |post_mlp_layernorm", down="mlp.fc2", layers="roberta.layers"
    ),
    "layoutlm": _bert(layers="layoutlm.encoder.layer"),
    "mobilebert": _bert(added=None, layers="mobilebert.encoder.layer", why="a bottleneck around it"),
    "mpnet": _bert(added="+a |attention.LayerNorm +m |output.LayerNorm", layers="mpnet.encoder.layer"),
    "mra": _bert(layers="mra.encoder.layer"),
    "nystromformer": _bert(layers="nystromformer.encoder.layer"),
    "tapas": _bert(layers="tapas.encoder.layer"),
    "yoso": _bert(layers="yoso.encoder.layer"),
    "bart:encoder blenderbot-small:encoder marian:encoder mvp:encoder plbart:encoder": _bart(layers="layers"),
    "bigbird_pegasus:encoder": _bart(kinds="aidm", added="+a +m", layers="layers", merged=True),
    "blenderbot:encoder m2m_100:encoder mbart:encoder pegasus:encoder": _gpt(
        down="fc2", layers="layers", norm="layer_norm"
    ),
    "encoder-decoder:encoder markuplm splinter visual_bert": _bert(layers="encoder.layer"),
    "mt5:encoder umt5:encoder": Architecture(
        down="layer.1.DenseReluDense.wo", layers="block", norm="final_layer_norm", gated="tanh"
    ),
    "nllb-moe:encoder": Architecture(kinds="3*qoaidm,qoarm", down="ffn.fc2", layers="layers", norm="layer_norm"),
    "prophetnet:encoder": _bert(
        kinds="qoam", added="+a |self_attn_layer_norm +m |feed_forward_layer_norm", down=None, layers="layers"
    ),
    "seamless_m4t:encoder seamless_m4t_v2:encoder": _gpt(down="ffn.fc2", layers="layers", norm="layer_norm"),
    "switch_transformers:encoder": _moe(layers="block", norm="final_layer_norm"),
    "t5:encoder longt5:encoder": _gpt(down="layer.1.DenseReluDense.wo", layers="block", norm="final_layer_norm"),
    "t5gemma:encoder": Architecture(
        added="+a~post_self_attn_layernorm +m~post_feedforward_layernorm", layers="layers", norm="norm", gated="tanh"
    ),
    "t5gemma2:encoder": Architecture(
        added="+a~post_self_attn_layernorm +m~post_feedforward_layernorm",
        layers="text_model.layers",
        norm="text_model.norm",
        gated="tanh",
    ),
    "dpr": _bert(layers="question_encoder.bert_model.encoder.layer"),
}

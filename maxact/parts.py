"""Where the parts of a model lie: one table of names, one way of looking. A model family is a row, not a function."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

# Under which names a part lies in its parent; the first that is there counts. Dots lead further down.
NAMES = {
    "layers": ("layers", "h", "blocks", "block", "layer"),
    "final norm": (
        "norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm", "out_norm", "ln_out",
        "layer_norm", "embedding_norm", "layernorm", "LayerNorm", "ln", "emb_layer_norm_after",
    ),
    "attention": (
        "self_attn.0", "self_attn", "attn.attention", "attn", "attention.self", "attention.attn", "attention",
        "self_attention", "linear_attn", "layer.0.SelfAttention", "layer.0.LocalSelfAttention",
        "layer.0.TransientGlobalSelfAttention", "norm_attn_norm.attn", "temporal_block", "shared_transformer.self_attn",
        "shared_transf.self_attn", "mamba", "conv", "mlstm_layer", "mixer",
    ),
    "attention result": ("attention.output.dense",),  # BERT: the attention itself ends before
    "MLP result": (),
    "second attention": ("self_attn.1", "mamba_decoder.mamba", "mamba"),
    "cross-attention": (
        "encoder_attn", "cross_attn", "crossattention.self", "crossattention", "cross_attention",
        "layer.1.EncDecAttention",
    ),
    "cross-attention result": ("crossattention.output.dense",),
    "query projection": (
        "q_proj", "qkv_proj", "c_attn", "query_key_value", "Wqkv", "in_proj_qkv", "in_proj_qkvz", "query", "q", "q_lin",
        "q_a_proj", "query_proj", "in_proj", "linear_x", "Wq", "W_pack", "wqkv",
    ),
    "output projection": (
        "o_proj", "c_proj", "out_proj", "dense", "Wo", "wo", "o", "out_lin", "linear_out", "o_b_proj",
    ),
    "MLP": (
        "mlps.0", "mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "layer.2.DenseReluDense",
        "layer.1.DenseReluDense", "layer.2.mlp", "layer.1.mlp", "mlp_block", "shared_transformer.feed_forward",
        "shared_transf.feed_forward", "mixer", "shared_mlp",
    ),
    "second MLP": ("mlps.1", "experts"),
    "third MLP": ("mlp",),
    "shared expert": ("shared_experts", "shared_expert", "shared_mlp"),
    "shared expert of the layer": ("shared_mlp",),
    "up projection": (
        "up_proj", "gate_up_proj", "c_fc", "fc1", "fc_in", "dense_h_to_4h", "w1", "input_linear", "wi", "wi_0", "Wi",
        "lin1", "proj_up", "up",
    ),
    "gate projection": ("gate_proj", "gate_up_proj", "w1", "input_linear", "wi_0", "Wi", "proj_up_gate"),
    "down projection": (
        "down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "output_linear", "wo", "Wo", "lin2", "proj_down",
    ),
    "up projection of the layer": ("fc1", "intermediate.dense"),
    "down projection of the layer": ("fc2", "output.dense"),
    "router": ("gate", "router"),
    "logits": ("layer", "wg", "proj", "gate", "classifier"),  # where a router makes more of them in itself
}  # fmt: skip
# A name that means the part only where another module lies beside it. Qwen 1 has w1 and w2 but no w3: its gate is w2.
BESIDE = {("gate projection", "w1"): "w3", ("second MLP", "experts"): "router", ("third MLP", "mlp"): "mlps"}
# A part that is never the same module as another.
BUT = {"second attention": "attention", "second MLP": "MLP", "shared expert of the layer": "MLP"}
# What is added to the residual stream, where a block is given the stream and adds to it itself (BLOOM, MPT).
RESULTS = {"attention result": ("attention", "output projection"), "MLP result": ("MLP", "down projection")}
EITHER = ("mixer",)  # the MLP if experts or a down projection lie in it, else the attention
GATE_FIRST = ("gate_up_proj", "input_linear", "Wi")  # one projection for both: the gate is its first half


@dataclass(frozen=True)
class Skeleton:
    """The decoder of a model (an encoder, if it has no decoder) and the list of its layers."""

    model: nn.Module
    decoder: nn.Module
    decoder_path: str
    layers: nn.ModuleList
    layers_path: str

    @property
    def has_encoder(self) -> bool:
        """Whether the model is called with the tokens of an encoder, which lies beside the decoder."""
        return self.decoder is not self.model and any(
            getattr(getattr(module, "config", None), "is_encoder_decoder", False)
            for _, module in path_to(self.model, self.decoder_path)
        )


def find_skeleton(model: nn.Module) -> Skeleton:
    """Layers are those of the class that the decoder names for its recorders, else those under a name of the table.

    Raises ValueError if there are none, or fewer than the config says.
    """
    decoder_path, decoder = _find_decoder(model)
    lists = [
        (path, module) for path, module in decoder.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    path, layers = next(_layers(decoder, lists), (None, None))
    if layers is None:
        raise ValueError(
            f"{type(model).__name__}: no layers found; looked in {type(decoder).__name__} for a ModuleList "
            f"of the class that _can_record_outputs names, then for one named {', '.join(NAMES['layers'])}"
        )
    path = _join(decoder_path, path)
    # get_decoder() of some (Llama 4) gives a model with a head: the decoder is the innermost model around the layers.
    for decoder_path, decoder in reversed(path_to(model, path)):  # noqa: B007
        if hasattr(decoder, "get_input_embeddings") and hasattr(decoder, "config"):
            break
    expected = _n_layers(decoder)
    if expected is not None and len(layers) < expected[1]:
        raise ValueError(
            f"{type(model).__name__}: {len(layers)} layers found in {path}, but config.{expected[0]} is "
            f"{expected[1]}; if layers were taken out on purpose, set the config to match"
        )
    return Skeleton(model, decoder, decoder_path, layers, path)


def find_part(skeleton: Skeleton, path: str, parent: nn.Module, part: str) -> tuple[str, nn.Module]:
    """The path and the module of a part of `parent`; LookupError with the reason if there is none."""
    if part == "embedding":
        return _find_embedding(skeleton)
    if part.startswith("cross-attention") and not skeleton.has_encoder:
        raise LookupError("no encoder in this model")
    if part == "final norm":  # beside the layers, or in a module around them up to the decoder
        n_decoder = len(path_to(skeleton.model, skeleton.decoder_path))
        around = path_to(skeleton.model, skeleton.layers_path)[n_decoder - 1 : -1]
        found = next(filter(None, (_by_name(*place, part) for place in reversed(around))), None)
    elif part in BUT:
        found = _by_name(path, parent, part, but=_maybe(skeleton, path, parent, BUT[part]))
    else:
        found = _by_name(path, parent, part)
    if found is None and part in RESULTS:
        block, projection = RESULTS[part]
        path, module = find_part(skeleton, path, parent, block)
        if "residual" in inspect.signature(module.forward).parameters:
            return find_part(skeleton, path, module, projection)
    if found is None and part == "attention":
        for below, module in parent.named_modules():
            if below and is_recorded(skeleton.decoder, "attentions", _join(path, below), module):
                return _join(path, below), module
    if found is None:
        raise LookupError(f"no {part} in {type(parent).__name__} (looked for {', '.join(NAMES[part])})")
    return found


def step(path: str, module: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """The module under a dotted name; what torch.compile put around a module is stepped through."""
    for part in name.split("."):
        module = module._modules.get(part)
        if module is None:
            return None
        path = _join(path, part)
        while "_orig_mod" in module._modules:
            path, module = _join(path, "_orig_mod"), module._modules["_orig_mod"]
    return path, module


def is_recorded(decoder: nn.Module, what: str, path: str, module: nn.Module) -> bool:
    """Whether `_can_record_outputs` of the decoder names this module as a source of `what`."""
    return any(
        isinstance(module, cls) and (not under or f".{under.strip('.')}." in f".{path}.")
        for cls, under, _ in recorders(decoder, what)
    )


def recorders(decoder: nn.Module, what: str) -> Iterator[tuple[type, str | None, int]]:
    """(class, part of the path or None, index in its output): an entry is a class, a recorder of one, or a list."""
    entry = (getattr(decoder, "_can_record_outputs", None) or {}).get(what, ())
    for one in entry if isinstance(entry, (list, tuple)) else (entry,):
        cls = getattr(one, "target_class", one)
        if isinstance(cls, type):
            yield cls, getattr(one, "layer_name", None), getattr(one, "index", 0)


def path_to(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """(path, module) of all modules from the model to the one at this path."""
    names = path.split(".") if path else []
    return [(".".join(names[:n]), model.get_submodule(".".join(names[:n]))) for n in range(len(names) + 1)]


def _by_name(path: str, parent: nn.Module, part: str, but: nn.Module | None = None) -> tuple[str, nn.Module] | None:
    for name in NAMES[part]:
        found = step(path, parent, name)
        if found is None or BESIDE.get((part, name), name.partition(".")[0]) not in parent._modules:
            continue
        module = found[1]
        if name in EITHER and (part == "MLP") != bool({"experts", "down_proj"} & module._modules.keys()):
            continue
        of_experts = part.endswith("projection") and any(p.ndim > 2 for p in module.parameters(recurse=False))
        if module is not but and not of_experts and not isinstance(module, nn.ModuleList):
            return found
    return None


def _maybe(skeleton: Skeleton, path: str, parent: nn.Module, part: str) -> nn.Module | None:
    try:
        return find_part(skeleton, path, parent, part)[1]
    except LookupError:
        return None


def _find_decoder(model: nn.Module) -> tuple[str, nn.Module]:
    try:
        decoder = model.get_decoder()
    except (AttributeError, NotImplementedError):
        decoder = model
    for path, module in model.named_modules():
        # Some models call their head `decoder`, and get_decoder() gives it.
        if module is decoder and any(isinstance(inner, nn.ModuleList) for inner in module.modules()):
            return path, module
    return "", model


def _layers(decoder: nn.Module, lists: list[tuple[str, nn.ModuleList]]) -> Iterator[tuple[str, nn.ModuleList]]:
    for path, layers in lists:
        if any(is_recorded(decoder, "hidden_states", f"{path}.{i}", layer) for i, layer in enumerate(layers)):
            yield path, layers
    for name in NAMES["layers"]:
        for path, layers in sorted(lists, key=lambda item: item[0].count(".")):  # outermost first
            if path.rpartition(".")[2] == name:
                yield path, layers


def _n_layers(decoder: nn.Module) -> tuple[str, int] | None:
    """What the config calls the number of layers, and the least that it says of encoder and decoder."""
    config = getattr(decoder, "config", None)
    names = ("num_hidden_layers", "num_layers")
    if getattr(config, "is_encoder_decoder", False):
        names = ("decoder_layers", "encoder_layers")
    known = [(name, getattr(config, name, None)) for name in names]
    # More is right: some remote code appends layers for multi-token prediction.
    return min((pair for pair in known if isinstance(pair[1], int)), key=lambda pair: pair[1], default=None)


def _find_embedding(skeleton: Skeleton) -> tuple[str, nn.Module]:
    for model in (skeleton.decoder, skeleton.model):
        try:
            embedding = model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        for path, module in skeleton.model.named_modules():
            if module is embedding:
                return path, module
    raise LookupError(f"{type(skeleton.model).__name__}.get_input_embeddings() names no module")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name

"""Where in a model the sites are: one way of looking, one table of names. A model family is a row, not a function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import NamedTuple

from torch import nn

# Under which names a part lies in its parent; the first that is there counts.
NAMES = {
    "layers": ("layers", "h", "blocks", "block", "layer"),
    "final norm": ("norm", "ln_f", "final_layernorm", "final_layer_norm"),
    "attention": ("self_attn", "attn", "attention", "self_attention", "linear_attn"),
    "query projection": ("q_proj", "qkv_proj", "c_attn", "query_key_value", "Wqkv", "in_proj_qkv"),
    "output projection": ("o_proj", "c_proj", "out_proj", "dense", "Wo", "wo"),
    "MLP": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
    "up projection": ("up_proj", "gate_up_proj", "c_fc", "fc1", "fc_in", "dense_h_to_4h", "w1"),
    "gate projection": ("gate_proj", "gate_up_proj", "w1"),
    "down projection": ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2"),
    "router": ("gate", "router"),
}
BESIDE = {"w1": "w3"}  # w1 is a gate only where w3 goes up: Qwen 1 calls its gate w2
GATE_FIRST = ("gate_up_proj",)  # one projection for both; the gate is the first half of its features


class Kind(NamedTuple):
    """One row: the sites of one kind."""

    site: str  # the site's name; with {i}, one a layer
    parts: tuple[str, ...]  # the way from the decoder, or from the layer, by keys of NAMES
    end: str  # the module's "input" or "output"
    default: bool  # in the set "default"; "gemm" holds all

    @property
    def name(self) -> str:
        return self.site.removeprefix("layer_{i}_")


# In the order in which a model computes them. Attention and MLP outputs are what the module gives: where a norm stands
# between it and the residual stream (Gemma 2 and 3, OLMo 2), before that norm.
KINDS = (
    Kind("embedding_output", ("embedding",), "output", True),
    Kind("layer_{i}_attn_input", ("attention", "query projection"), "input", False),
    Kind("layer_{i}_o_input", ("attention", "output projection"), "input", False),
    Kind("layer_{i}_attn_output", ("attention",), "output", True),
    Kind("layer_{i}_mlp_input", ("MLP", "up projection"), "input", False),
    Kind("layer_{i}_moe_gate", ("MLP", "router"), "output", True),
    Kind("layer_{i}_mlp_gate", ("MLP", "gate projection"), "output", True),
    Kind("layer_{i}_mlp_act", ("MLP", "down projection"), "input", False),
    Kind("layer_{i}_mlp_output", ("MLP",), "output", True),
    Kind("layer_{i}_hidden", (), "output", True),
    Kind("final_layernorm", ("final norm",), "output", True),
)
SETS = ("default", "gemm")


@dataclass(frozen=True)
class Site:
    """A named place in a model: an end of a module, and which features of the tensor there."""

    name: str
    kind: str
    layer: int | None
    path: str  # of the module, for model.get_submodule
    end: str  # "input" (the first argument) or "output" (the tensor, or the first of a tuple)
    first_half: bool = False  # only the first half of the features


@dataclass(frozen=True)
class SiteMap:
    """The chosen sites of one model, in the order in which it computes them."""

    sites: tuple[Site, ...]
    notes: dict[str, str]  # by kind, for every kind that was asked for: why layers (or all) have none; "" if all have
    decoder: str  # path of the decoder
    layers: str  # path of the list of layers


def find_sites(model: nn.Module, sites: str | Iterable[str] = "default") -> SiteMap:
    """The sites of a model: of a set ("default" or "gemm"), or those that names and patterns (fnmatch) match.

    Raises ValueError if the layers cannot be found, for an unknown set, or for a pattern that matches nothing.
    """
    if isinstance(sites, str) and sites not in SETS:
        raise ValueError(f'sites: {sites!r}, expected "default", "gemm" or a list of site names and patterns')
    patterns = None if isinstance(sites, str) else list(sites)
    if patterns is not None and not (patterns and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"sites: {patterns!r}, expected at least one site name or pattern")

    look = _Look(model)
    found: list[Site] = []
    missing: dict[str, dict[str, list[int | None]]] = {}  # by kind, then by reason: the layers
    for kind, layer in _in_order(len(look.layers)):
        if sites == "default" and not kind.default:
            continue
        reasons = missing.setdefault(kind.name, {})
        try:
            found.append(look.site(kind, layer))
        except LookupError as error:
            reasons.setdefault(error.args[0], []).append(layer)
    if patterns is not None:
        found = _matching(found, patterns, model)
        kinds = {site.kind for site in found}
        missing = {kind: reasons for kind, reasons in missing.items() if kind in kinds}
    notes = {kind: _note(reasons, len(look.layers)) for kind, reasons in missing.items()}
    return SiteMap(tuple(found), notes, look.decoder_path, look.layers_path)


def _in_order(n_layers: int) -> Iterator[tuple[Kind, int | None]]:
    """Every (kind, layer) in the order of computation."""
    for of_layer, kinds in groupby(KINDS, key=lambda kind: "{i}" in kind.site):
        kinds = tuple(kinds)
        for layer in range(n_layers) if of_layer else (None,):
            for kind in kinds:
                yield kind, layer


def _note(reasons: dict[str, list[int | None]], n_layers: int) -> str:
    parts = []
    for why, layers in reasons.items():
        everywhere = len(layers) == n_layers or layers == [None]
        parts.append(why if everywhere else f"layers {', '.join(map(str, layers))}: {why}")
    return "; ".join(parts)


def _matching(found: list[Site], patterns: list[str], model: nn.Module) -> list[Site]:
    for pattern in patterns:
        if not any(fnmatchcase(site.name, pattern) for site in found):
            names = ", ".join(dict.fromkeys(site.name.replace(f"_{site.layer}_", "_*_") for site in found))
            raise ValueError(f"sites: {pattern!r} matches no site of {type(model).__name__}; it has {names}")
    return [site for site in found if any(fnmatchcase(site.name, pattern) for pattern in patterns)]


class _Look:
    """Finds parts: first by the classes that the model itself names for its recorders, then by NAMES."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.decoder = _decoder(model)
        self.decoder_path = next(path for path, module in model.named_modules() if module is self.decoder)
        self.layers_path, self.layers = self._find_layers()

    def site(self, kind: Kind, layer: int | None) -> Site:
        """One site; LookupError with the reason if the model has none."""
        if layer is None:
            path, module = self.decoder_path, self.decoder
        else:
            path, module = _join(self.layers_path, str(layer)), self.layers[layer]
        for part in kind.parts:
            path, module = self._part(path, module, part)
        first_half = kind.parts[-1:] == ("gate projection",) and path.rpartition(".")[2] in GATE_FIRST
        return Site(kind.site.format(i=layer), kind.name, layer, path, kind.end, first_half)

    def _part(self, path: str, parent: nn.Module, part: str) -> tuple[str, nn.Module]:
        if part == "embedding":
            return self._embedding()
        if part == "attention":
            for below, module in parent.named_modules():
                if below and self._is_recorded("attentions", _join(path, below), module):
                    return _join(path, below), module
        for name in NAMES[part]:
            module = parent._modules.get(name)
            if module is not None and (part != "gate projection" or BESIDE.get(name, name) in parent._modules):
                return _join(path, name), module
        raise LookupError(f"no {part} in {type(parent).__name__} (looked for {', '.join(NAMES[part])})")

    def _embedding(self) -> tuple[str, nn.Module]:
        for model in (self.decoder, self.model):
            try:
                embedding = model.get_input_embeddings()
            except (AttributeError, NotImplementedError):
                continue
            for path, module in self.model.named_modules():
                if module is embedding:
                    return path, module
        raise LookupError(f"{type(self.model).__name__}.get_input_embeddings() names no module")

    def _find_layers(self) -> tuple[str, nn.ModuleList]:
        lists = [
            (path, module)
            for path, module in self.decoder.named_modules()
            if isinstance(module, nn.ModuleList) and len(module)
        ]
        for path, layers in lists:
            if any(self._is_recorded("hidden_states", _join(path, str(i)), layer) for i, layer in enumerate(layers)):
                return self._checked(path, layers)
        for name in NAMES["layers"]:
            for path, layers in sorted(lists, key=lambda item: item[0].count(".")):  # outermost first
                if path.rpartition(".")[2] == name:
                    return self._checked(path, layers)
        raise ValueError(
            f"{type(self.model).__name__}: no layers found; looked in {type(self.decoder).__name__} for a ModuleList "
            f"of the class that _can_record_outputs names, then for one named {', '.join(NAMES['layers'])}"
        )

    def _checked(self, path: str, layers: nn.ModuleList) -> tuple[str, nn.ModuleList]:
        path = _join(self.decoder_path, path)
        config = getattr(self.decoder, "config", None)
        for name in ("decoder_layers",) * bool(getattr(config, "is_encoder_decoder", False)) + ("num_hidden_layers",):
            expected = getattr(config, name, None)
            if isinstance(expected, int):
                # More is right: some remote code appends layers for multi-token prediction.
                if len(layers) < expected:
                    raise ValueError(
                        f"{type(self.model).__name__}: {len(layers)} layers found in {path}, but config.{name} is "
                        f"{expected}; if layers were taken out on purpose, set the config to match"
                    )
                break
        return path, layers

    def _is_recorded(self, what: str, path: str, module: nn.Module) -> bool:
        """Whether `_can_record_outputs` of the decoder names this module as a source of `what`."""
        return any(
            isinstance(module, cls) and (not under or f".{under.strip('.')}." in f".{path}.")
            for cls, under in _recorders(self.decoder, what)
        )


def _decoder(model: nn.Module) -> nn.Module:
    try:
        decoder = model.get_decoder()
    except (AttributeError, NotImplementedError):
        return model
    return decoder if any(module is decoder for module in model.modules()) else model


def _recorders(decoder: nn.Module, what: str) -> Iterator[tuple[type, str | None]]:
    """(class, part of the path or None): an entry is a class, a recorder of one, or a list of these."""
    entry = (getattr(decoder, "_can_record_outputs", None) or {}).get(what, ())
    for one in entry if isinstance(entry, (list, tuple)) else (entry,):
        cls = getattr(one, "target_class", one)
        if isinstance(cls, type):
            yield cls, getattr(one, "layer_name", None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name

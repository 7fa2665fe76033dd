"""The sites of a model: which there are, what they are called, which end of which module they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import NamedTuple

from torch import nn

from .parts import GATE_FIRST, Skeleton, find_part, find_skeleton, recorders, step

_MLP_OUTPUT = (("MLP result",), ("MLP",), ("down projection of the layer",))
_ROUTER = (
    ("MLP", "router", "logits"), ("MLP", "router"), ("router", "logits"), ("router",), ("third MLP", "router")
)  # fmt: skip
_SHARED = (("MLP", "shared expert"), ("shared expert of the layer",))
_SHARED_GATE = tuple((*way, "gate projection") for way in _SHARED)
_SHARED_ACT = tuple((*way, "down projection") for way in _SHARED)


class Kind(NamedTuple):
    """One row: the sites of one kind."""

    site: str  # the site's name; with {i}, one a layer
    ways: tuple[tuple[str, ...], ...]  # from the decoder, or the layer, by parts; the first that leads there counts
    end: str  # the module's "input" or "output"
    default: bool = False  # in the set "default"; "gemm" holds all
    rare: bool = False  # of few models: a model without any says nothing of it

    @property
    def name(self) -> str:
        return self.site.removeprefix("layer_{i}_")


# In the order in which a model computes them. Attention and MLP outputs are what the module gives: where a norm stands
# between it and the residual stream (Gemma 2 and 3, OLMo 2), before that norm. A block that mixes tokens by other means
# (SSM, linear attention, convolution) counts as attention; the second of two in one layer is called `_2`. Where the
# residual stream is several streams, the features of a token are those of all streams, one stream after another.
KINDS = (
    Kind("embedding_output", (("embedding",),), "output", default=True),
    Kind("layer_{i}_attn_input", (("attention", "query projection"),), "input"),
    Kind("layer_{i}_o_input", (("attention result",), ("attention", "output projection")), "input"),
    Kind("layer_{i}_attn_output", (("attention result",), ("attention",)), "output", default=True),
    Kind("layer_{i}_attn_input_2", (("second attention", "query projection"),), "input", rare=True),
    Kind("layer_{i}_o_input_2", (("second attention", "output projection"),), "input", rare=True),
    Kind("layer_{i}_attn_output_2", (("second attention",),), "output", default=True, rare=True),
    Kind("layer_{i}_cross_attention_output", (("cross-attention result",), ("cross-attention",)), "output", True, True),
    Kind("layer_{i}_mlp_input", (("MLP", "up projection"), ("up projection of the layer",)), "input"),
    Kind("layer_{i}_moe_gate", _ROUTER, "output", default=True),
    Kind("layer_{i}_mlp_gate", (("MLP", "gate projection"),), "output", default=True),
    Kind("layer_{i}_mlp_act", (("MLP", "down projection"), ("down projection of the layer",)), "input"),
    Kind("layer_{i}_shared_expert_gate", _SHARED_GATE, "output", default=True, rare=True),
    Kind("layer_{i}_shared_expert_act", _SHARED_ACT, "input", rare=True),
    Kind("layer_{i}_shared_expert_output", _SHARED, "output", default=True, rare=True),
    Kind("layer_{i}_mlp_output", _MLP_OUTPUT, "output", default=True),
    Kind("layer_{i}_mlp_gate_2", (("second MLP", "gate projection"),), "output", default=True, rare=True),
    Kind("layer_{i}_mlp_act_2", (("second MLP", "down projection"),), "input", rare=True),
    Kind("layer_{i}_mlp_output_2", (("second MLP",),), "output", default=True, rare=True),
    Kind("layer_{i}_mlp_output_3", (("third MLP",),), "output", default=True, rare=True),
    Kind("layer_{i}_hidden", ((),), "output", default=True),
    Kind("final_layernorm", (("final norm",),), "output", default=True),
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
    element: int = 0  # which element of the output, where this is a tuple
    n_experts: int | None = None  # the width of a router's logits, where the model does not say which element they are
    streams_first: bool = False  # of several residual streams: [streams, B, S, d], else [B, S, streams, d]


@dataclass(frozen=True)
class SiteMap:
    """The chosen sites of one model, in the order in which it computes them."""

    sites: tuple[Site, ...]
    notes: dict[str, str]  # by kind, for every kind that was asked for: why layers (or all) have none; "" if all have
    decoder: str  # path of the decoder
    layers: str  # path of the list of layers
    has_encoder: bool = False  # what the model is called with are tokens of its encoder, not of its decoder


def find_sites(model: nn.Module, sites: str | Iterable[str] = "default") -> SiteMap:
    """The sites of a model: of a set ("default" or "gemm"), or those that names and patterns (fnmatch) match.

    Raises ValueError if the layers cannot be found, for an unknown set, or for a pattern that matches nothing.
    """
    if isinstance(sites, str) and sites not in SETS:
        raise ValueError(f'sites: {sites!r}, expected "default", "gemm" or a list of site names and patterns')
    patterns = None if isinstance(sites, str) else list(sites)
    if patterns is not None and not (patterns and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"sites: {patterns!r}, expected at least one site name or pattern")

    skeleton = find_skeleton(model)
    found: list[Site] = []
    missing: dict[str, dict[str, list[int | None]]] = {}  # by kind, then by reason: the layers
    for kind, layer in _in_order(len(skeleton.layers)):
        if sites == "default" and not kind.default:
            continue
        reasons = missing.setdefault(kind.name, {})
        try:
            found.append(_site(skeleton, kind, layer))
        except LookupError as error:
            reasons.setdefault(error.args[0], []).append(layer)
    if patterns is not None:
        found = _matching(found, patterns, model)
        missing = {kind: reasons for kind, reasons in missing.items() if any(site.kind == kind for site in found)}
    kinds = {site.kind for site in found} | {kind.name for kind in KINDS if not kind.rare}
    notes = {kind: _note(reasons, len(skeleton.layers)) for kind, reasons in missing.items() if kind in kinds}
    return SiteMap(tuple(found), notes, skeleton.decoder_path, skeleton.layers_path, skeleton.has_encoder)


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
        if len(layers) == n_layers or layers == [None]:
            parts.append(why)
        else:  # the names that were looked for are of interest where nothing was found at all
            parts.append(f"layers {_ranges(layers)}: {why.partition(' (looked for')[0]}")
    return "; ".join(parts)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 4] as "0-2, 4"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _matching(found: list[Site], patterns: list[str], model: nn.Module) -> list[Site]:
    for pattern in patterns:
        if not any(fnmatchcase(site.name, pattern) for site in found):
            names = ", ".join(dict.fromkeys(site.name.replace(f"_{site.layer}_", "_*_") for site in found))
            raise ValueError(f"sites: {pattern!r} matches no site of {type(model).__name__}; it has {names}")
    return [site for site in found if any(fnmatchcase(site.name, pattern) for pattern in patterns)]


def _site(skeleton: Skeleton, kind: Kind, layer: int | None) -> Site:
    """One site; LookupError with the reason if the model has none."""
    reasons = []
    for way in kind.ways:
        try:
            path, module = _follow(skeleton, way, layer)
            break
        except LookupError as error:
            reasons.append(error.args)
    else:
        raise LookupError(max(reasons, key=lambda reason: reason[1])[0])  # of the way that led furthest
    site = Site(kind.site.format(i=layer), kind.name, layer, path, kind.end)
    if way[-1:] == ("gate projection",):
        return replace(site, first_half=path.rpartition(".")[2] in GATE_FIRST)
    if way[-1:] == ("router",):
        for cls, _, element in recorders(skeleton.decoder, "router_logits"):
            if isinstance(module, cls):
                return replace(site, element=element)
        return replace(site, n_experts=next((p.shape[0] for p in module.parameters() if p.ndim == 2), None))
    if kind.name == "hidden":
        return replace(site, streams_first=hasattr(getattr(skeleton.decoder, "config", None), "altup_num_inputs"))
    return site


def _follow(skeleton: Skeleton, way: tuple[str, ...], layer: int | None) -> tuple[str, nn.Module]:
    """The module at the end of a way; LookupError with the reason and how many parts of the way were there."""
    if layer is None:
        path, module = skeleton.decoder_path, skeleton.decoder
    else:
        path, module = step(skeleton.layers_path, skeleton.layers, str(layer))
    for n, part in enumerate(way):
        try:
            path, module = find_part(skeleton, path, module, part)
        except LookupError as error:
            raise LookupError(error.args[0], n) from None
    return path, module

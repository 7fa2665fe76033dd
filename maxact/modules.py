"""Which modules a site stands at, by their paths: what exports name their tensors by."""

from __future__ import annotations

from torch import nn

from .sites import SiteMap

# Beside the module at whose input a site stands: those in the same parent that are given the same tensor.
GIVEN_THE_SAME = {
    "q_proj": ("k_proj", "v_proj"),
    "q_a_proj": ("kv_a_proj_with_mqa",),
    "query": ("key", "value"),
    "query_proj": ("key_proj", "value_proj"),
    "q": ("k", "v"),
    "q_lin": ("k_lin", "v_lin"),
    "Wq": ("Wk", "Wv"),
    "in_proj_qkv": ("in_proj_z", "in_proj_b", "in_proj_a"),
    "in_proj_qkvz": ("in_proj_ba",),
    "up_proj": ("gate_proj",),
    "w1": ("w3",),
    "wi_0": ("wi_1",),
}


def modules_of(model: nn.Module, site_map: SiteMap) -> dict[str, dict]:
    """By site: `end` ("input" or "output"), and `paths` of the modules that have it there, the hooked one first."""
    return {site.name: {"end": site.end, "paths": _paths(model, site.path, site.end)} for site in site_map.sites}


def _paths(model: nn.Module, path: str, end: str) -> list[str]:
    above, _, name = path.rpartition(".")
    beside = GIVEN_THE_SAME.get(name, ()) if end == "input" else ()
    parent, module = model.get_submodule(above), model.get_submodule(path)
    alike = [other for other in beside if _width(parent._modules.get(other)) == _width(module) is not None]
    return [path, *(f"{above}.{other}" if above else other for other in alike)]


def _width(module: nn.Module | None) -> int | None:
    """Features that a linear module is given."""
    return getattr(module, "in_features", None)

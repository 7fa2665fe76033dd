"""Whether every site saw what it should: the coverage table, and what is wrong in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from maxact_kernels import ProbeState

from .sites import SiteMap

_SHOWN = 20  # names in an error; a model has hundreds of sites


def coverage(site_map: SiteMap, states: Mapping[str, ProbeState]) -> list[dict]:
    """A row a kind: kind, expected (sites found), fired, missing (their names), note (why layers have none)."""
    rows = []
    for kind, note in site_map.notes.items():
        names = [site.name for site in site_map.sites if site.kind == kind]
        missing = [name for name in names if name not in states]
        row = dict(kind=kind, expected=len(names), fired=len(names) - len(missing), missing=missing, note=note)
        rows.append(row)
    return rows


def check(site_map: SiteMap, states: Mapping[str, ProbeState]) -> None:
    """Raises RuntimeError, naming the sites, if one saw no tensor, or is a router's and no logits."""
    missing = [site.name for site in site_map.sites if site.name not in states]
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(site_map.sites)} sites saw no tensor: {_few(missing)}; the forward pass went "
            "around these modules or around their hooks"
        )
    for site in site_map.sites:
        if site.kind == "moe_gate":
            router = states[site.name].summary()
            if router.min >= 0 and 0 < router.max <= 1:
                raise RuntimeError(
                    f"{site.name}: what {site.path} gives lies between 0 and 1: probabilities, not logits; choose "
                    "sites without it"
                )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

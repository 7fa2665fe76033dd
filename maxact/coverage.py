"""Whether every site saw every token, once: the coverage table, and what is wrong in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from maxact_kernels import ProbeState

from .experts import KIND as EXPERTS
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
    """Raises RuntimeError, naming the sites, if one saw no tensor, saw tokens twice, or is a router's and no logits."""
    missing = [site.name for site in site_map.sites if site.name not in states]
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(site_map.sites)} sites saw no tensor: {_few(missing)}; the forward pass went around "
            "these modules or around their hooks"
        )
    for site in site_map.sites:
        if site.kind == "moe_gate":
            router = states[site.name].summary()
            if router.min >= 0 and 0 < router.max <= 1:
                raise RuntimeError(
                    f"{site.name}: what {site.path} gives lies between 0 and 1: probabilities, not logits; choose sites "
                    "without it"
                )
    n_tokens = {site: int(states[site.name].fields["n_tokens"]) for site in site_map.sites if site.kind != EXPERTS}
    # Every token passes the residual stream once. Other sites can see fewer: embeddings that the caller computed.
    once = max((n for site, n in n_tokens.items() if site.kind == "hidden"), default=None)
    if once is None:
        return
    often = [(site, n) for site, n in n_tokens.items() if n > once]
    if often:
        site, n = often[0]
        raise RuntimeError(
            f"{_few([site.name for site, _ in often])}: {n:,} tokens where the residual stream had {once:,}, because "
            f"{site.path} runs more than once in a forward pass; choose sites without it"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

"""The residual stream by groups of tokens (position 0, special tokens, ...): what a run keeps of them. No PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

POSITION_0 = "position_0"  # the group of the first token of every sample
KEYS = ("absmax", "n_tokens", "n_massive_tokens")
Groups = dict[str, dict[str, dict]]  # by group and site: a number for each of KEYS


class Row(NamedTuple):
    """A group over all sites of the residual stream that it was measured at."""

    group: str
    n_tokens: int  # of one site
    absmax: float
    site: str | None  # where absmax stands, if it is known exactly; else absmax is an upper bound
    n_massive_tokens: int  # over all sites


def summarize(states: dict[str, dict]) -> Groups:
    """What run.json holds of the states of each group and site."""
    return {
        group: {site: {key: state.fields[key].item() for key in KEYS} for site, state in sites.items()}
        for group, sites in states.items()
    }


def merge_groups(parts: Iterable[Groups]) -> Groups:
    """The groups of several measurements as if they had been one."""
    merged: Groups = {}
    for part in parts:
        for group, sites in part.items():
            for site, numbers in sites.items():
                mine = merged.setdefault(group, {}).setdefault(site, dict.fromkeys(KEYS, 0))
                mine["absmax"] = max(float(mine["absmax"]), numbers["absmax"])
                for key in KEYS[1:]:
                    mine[key] += numbers[key]
    return merged


def read_groups(value) -> Groups:
    """The groups as run.json has them; what is not such a thing is left out, as the file may be anyone's."""
    groups: Groups = {}
    for group, sites in value.items() if isinstance(value, dict) else ():
        for site, numbers in sites.items() if isinstance(sites, dict) else ():
            if isinstance(numbers, dict) and all(_is_number(numbers.get(key), whole=key != "absmax") for key in KEYS):
                groups.setdefault(group, {})[site] = {key: numbers[key] for key in KEYS}
    return groups


def rows(run) -> list[Row]:
    """The table of a run's groups, with the rest of the tokens where the first of each sample was counted on its own."""
    table = []
    for group, sites in run.groups().items():
        sites = {site: numbers for site, numbers in sites.items() if site in run.sites}
        if not sites:
            continue
        largest = max(sites, key=lambda site: sites[site]["absmax"])
        n_tokens = max(numbers["n_tokens"] for numbers in sites.values())
        n_massive = sum(numbers["n_massive_tokens"] for numbers in sites.values())
        table.append(Row(group, n_tokens, sites[largest]["absmax"], largest, n_massive))
        if group == POSITION_0:
            table.append(_rest(run, sites, table[-1]))
    return table


def _rest(run, sites: dict[str, dict], first: Row) -> Row:
    """All tokens but the first of each sample: counts by subtraction, absmax from the largest elements."""
    n_tokens = max(run.sites[site].n_tokens for site in sites) - first.n_tokens
    n_massive = sum(run.sites[site].n_massive_tokens for site in sites) - first.n_massive_tokens
    absmax, where = 0.0, None
    for site in sites:
        summary = run.sites[site]
        later = (abs(float(v)) for v, id in zip(summary.topk.values, summary.topk.token_ids) if int(id) & 0xFFFFFFFF)
        value, exact = next(later, None), True
        if value is None and summary.n_elements > len(summary.topk.values):
            value, exact = abs(float(summary.topk.values[-1])), False
        if value is not None and value > absmax:
            absmax, where = value, site if exact else None
    return Row("rest", n_tokens, absmax, where, n_massive)


def _is_number(value, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

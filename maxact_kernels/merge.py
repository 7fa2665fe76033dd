"""Folding one state's fields into another's, by the rules that fields.py gives them."""

from __future__ import annotations

import torch

from .fields import ORDERS, RANKINGS, Options, fields


def merge(into: dict[str, torch.Tensor], other: dict[str, torch.Tensor], options: Options) -> None:
    """Fold the fields `other` into the fields `into`, in place; both on one device."""
    for field in fields(options):
        if field.rule == "sum":
            into[field.name] += other[field.name]
        elif field.rule == "max":
            torch.maximum(into[field.name], other[field.name], out=into[field.name])
    mine, theirs = into["absmax"], other["absmax"]
    into["n_absmax"].copy_(into["n_absmax"] * (mine >= theirs) + other["n_absmax"] * (theirs >= mine))
    torch.maximum(mine, theirs, out=mine)
    for ranking in RANKINGS:
        merge_ranking(ranking, into, other)


def merge_ranking(ranking: str, into: dict[str, torch.Tensor], rows: dict[str, torch.Tensor]) -> None:
    """Keep the best of the rows in `into` and `rows` (each column a 1-D tensor), in place."""
    both = {name: torch.cat((into[name], rows[name])) for name in RANKINGS[ranking]}
    keys = [_KEYS[by](both[name]) for by, name in ORDERS[ranking]]
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    for name in RANKINGS[ranking]:
        into[name].copy_(both[name][order[: len(into[name])]])


# Ascending sort keys, by the words of ORDERS.
_KEYS = {
    "largest": lambda values: torch.where(values.isnan(), 1, -(values.view(torch.int32) & 0x7FFFFFFF)),
    "least": lambda values: values,
    "sign": lambda values: values.signbit().int(),
}

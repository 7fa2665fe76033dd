"""Folding one state's fields into another's, by the rules that fields.py gives them."""

from __future__ import annotations

import torch

from .fields import RANKINGS, Options, fields


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
    keys = _ORDERS[ranking](both)
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    for name in RANKINGS[ranking]:
        into[name].copy_(both[name][order[: len(into[name])]])


def _down(values: torch.Tensor) -> torch.Tensor:
    """Larger |float32| first, nan (an empty slot) last; as int32 keys."""
    return torch.where(values.isnan(), 1, -(values.view(torch.int32) & 0x7FFFFFFF))


# Sort keys, ascending, that make each order total: two rows that agree in all of them are the same row.
_ORDERS = {
    # The sign decides only between elements to which a caller gave the same coordinate.
    "topk": lambda c: [
        _down(c["topk_values"]),
        c["topk_token_ids"],
        c["topk_features"],
        c["topk_values"].signbit().int(),
    ],
    "first_nonfinite": lambda c: [c["first_nonfinite_token"], c["first_nonfinite_feature"]],
    "ratio_max": lambda c: [
        _down(c["ratio_max"]),
        c["ratio_max_token"],
        _down(c["ratio_max_absmax"]),
        _down(c["ratio_max_median"]),
    ],
    "peak": lambda c: [_down(c["peak_absmax"]), c["peak_token"], _down(c["peak_median"])],
}

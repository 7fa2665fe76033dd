"""`merge` on the host, for states read from files: NumPy arrays by the same rules. Needs no PyTorch."""

from __future__ import annotations

import numpy as np

from .fields import RANKINGS, Options, fields
from .storage import Arrays


def merge_arrays(into: dict[str, np.ndarray], other: Arrays, options: Options) -> None:
    """Fold the fields `other` into the fields `into`, in place."""
    for field in fields(options):
        if field.rule == "sum":
            other.add_to(into[field.name], field.name)
        elif field.rule == "max":
            np.maximum(into[field.name], other[field.name], out=into[field.name])
    mine, theirs = into["absmax"], other["absmax"]
    into["n_absmax"][...] = into["n_absmax"] * (mine >= theirs) + other["n_absmax"] * (theirs >= mine)
    np.maximum(mine, theirs, out=mine)
    for names, keys in zip(RANKINGS.values(), _ORDERS.values(), strict=True):
        both = {name: np.concatenate((into[name], other[name])) for name in names}
        order = np.lexsort(keys(both)[::-1])  # its last key decides first
        for name in names:
            into[name][...] = both[name][order[: len(into[name])]]


def _down(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.int32(1), -(values.view(np.int32) & 0x7FFFFFFF))


_ORDERS = {  # as in merge.py
    "topk": lambda c: [
        _down(c["topk_values"]),
        c["topk_token_ids"],
        c["topk_features"],
        np.signbit(c["topk_values"]),
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

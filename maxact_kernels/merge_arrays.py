"""`merge` on the host, for states read from files: NumPy arrays by the same rules. Needs no PyTorch."""

from __future__ import annotations

import numpy as np

from .fields import ORDERS, RANKINGS, Options, fields
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
    for ranking, names in RANKINGS.items():
        both = {name: np.concatenate((into[name], other[name])) for name in names}
        keys = [_KEYS[by](both[name]) for by, name in ORDERS[ranking]]
        order = np.lexsort(keys[::-1])  # its last key decides first
        for name in names:
            into[name][...] = both[name][order[: len(into[name])]]


# Ascending sort keys, by the words of ORDERS.
_KEYS = {
    "largest": lambda values: np.where(np.isnan(values), np.int32(1), -(values.view(np.int32) & 0x7FFFFFFF)),
    "least": lambda values: values,
    "sign": np.signbit,
}

"""The few numbers of a measurement that a training log wants."""

from __future__ import annotations

from maxact_kernels import ProbeState
from maxact_kernels.state import read_numbers

from .run import ROUTERS, site_kind

LOGGED = ("absmax", "ratio_max", "n_massive_tokens")


def scalars(states: dict[str, ProbeState]) -> dict[str, float]:
    """By name `maxact/SITE/NUMBER`, with `maxact/M` and `maxact/n_nonfinite` over all; what has no value is not there."""
    rows = dict(zip(states, read_numbers(list(states.values()), (*LOGGED, "n_nan", "n_inf"))))
    found = {
        "maxact/M": max((row[0] for site, row in rows.items() if site_kind(site) not in ROUTERS), default=0.0),
        "maxact/n_nonfinite": float(sum(row[3] + row[4] for row in rows.values())),
    }
    for site, row in rows.items():
        found |= {f"maxact/{site}/{name}": float(value) for name, value in zip(LOGGED, row) if value == value}
    return found

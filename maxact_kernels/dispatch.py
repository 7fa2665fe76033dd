"""Which backend takes a tensor, and why another cannot."""

from __future__ import annotations

import importlib
import os
import warnings
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

PREFERENCE = ("cuda", "triton", "cpu", "reference")


class Backend(NamedTuple):
    """One row of `backends()`."""

    name: str
    available: bool
    why_not: str | None  # a sentence, None if it can run
    device_types: tuple[str, ...] | None  # None: any device


def backends() -> list[Backend]:
    """What can run here, in order of preference, and why the rest cannot."""
    rows = []
    for name in PREFERENCE:
        why_not = _module(name).unavailable()
        rows.append(Backend(name, why_not is None, why_not, _module(name).DEVICE_TYPES))
    return rows


def choose(device_type: str, backend: str | None) -> ModuleType:
    """The backend module for tensors on `device_type`: the one asked for, or the first that can run."""
    asked = backend or os.environ.get("MAXACT_BACKEND") or None
    return _choose(device_type, asked, "backend" if backend else "MAXACT_BACKEND")


@lru_cache
def _choose(device_type: str, asked: str | None, asked_by: str) -> ModuleType:
    refusals, elsewhere = [], []
    for name in PREFERENCE:
        if asked not in (None, name):
            continue
        module = _module(name)
        if module.DEVICE_TYPES is not None and device_type not in module.DEVICE_TYPES:
            elsewhere.append(
                f"{name} runs on {' and '.join(module.DEVICE_TYPES)} tensors, this one is on {device_type}"
            )
        elif why_not := module.unavailable():
            refusals.append(why_not)
        else:
            if name == "reference" and asked is None:
                warnings.warn(
                    f"maxact: {'; '.join(refusals or elsewhere)}. Using the reference backend: the same results, many times slower.",
                    stacklevel=5,
                )
            return module
    if not refusals + elsewhere:
        raise ValueError(f"{asked_by}: {asked!r}, expected one of {', '.join(PREFERENCE)}")
    raise ValueError(f"{asked_by}: {asked!r} cannot be used: {'; '.join(refusals + elsewhere)}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")

"""A method of one instance, seen while it is called: for what no hook of PyTorch sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from torch import nn


class Replaced:
    """A method of one instance that goes through `around(original, *args, **kwargs)`, until `remove`."""

    def __init__(self, module: nn.Module, name: str, around: Callable):
        self._module, self._name = module, name
        self._before = {name: module.__dict__[name]} if name in module.__dict__ else {}
        self._around: Callable | None = around
        original = getattr(module, name)

        @wraps(original)
        def replacement(*args, **kwargs):
            if self._around is None:  # removed, but someone who came later still calls it
                return original(*args, **kwargs)
            return self._around(original, *args, **kwargs)

        self._replacement = module.__dict__[name] = replacement

    def remove(self) -> None:
        self._around = None
        if self._module.__dict__.get(self._name) is self._replacement:
            del self._module.__dict__[self._name]
            self._module.__dict__.update(self._before)

"""`torch.ops.maxact.update`: ProbeState.update as an operator, so that torch.compile keeps it in one graph.

Only compiled code calls it; eager code calls the backend directly, which costs the host less.
"""

from __future__ import annotations

import itertools
import weakref

import torch

_states: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_keys = itertools.count()

_library = torch.library.Library("maxact", "DEF")
_library.define("update(Tensor(a!) buffer, Tensor x, Tensor? mask, Tensor? token_ids, int key) -> ()")


def enter(state) -> int:
    """The key under which the operator finds a state, for as long as it lives."""
    key = next(_keys)
    _states[key] = state
    return key


def _update(buffer: torch.Tensor, x: torch.Tensor, mask, token_ids, key: int) -> None:
    state = _states.get(key)
    if state is None:
        raise RuntimeError(
            "a compiled function updates a ProbeState that is gone; keep the state as long as the function"
        )
    # A compiler may hand over a copy and copy it back afterwards; a backend knows the addresses of the state's own.
    is_copy = buffer.data_ptr() != state.buffer.data_ptr()
    if is_copy:
        state.buffer.copy_(buffer)
    state.update(x, mask, token_ids)
    if is_copy:
        buffer.copy_(state.buffer)


_library.impl("update", _update, "CompositeExplicitAutograd")
_library.impl("update", lambda buffer, x, mask, token_ids, key: None, "Meta")

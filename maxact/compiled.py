"""A probe's hooks in compiled code: the graph calls back, when it runs, what eager hooks do.

torch.compile runs a hook once, while it traces. So a traced hook emits one operator and does nothing else, and the
operator finds the probe by a number. It says that it writes to `order`, a byte that means nothing: so the compiler
drops none of the operators and keeps them in order.
"""

from __future__ import annotations

import itertools
import weakref
from typing import NamedTuple

import torch

from .tokens import Given

_probes: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_keys = itertools.count()


class Door(NamedTuple):
    """What traced code knows of a probe."""

    order: torch.Tensor
    key: int


def open_door(probe, device: torch.device) -> Door:
    """A way for compiled code to `probe.enter_at`, `see_at` and the like, for as long as the probe lives."""
    with torch.inference_mode(False):
        door = Door(torch.zeros(1, dtype=torch.uint8, device=device), next(_keys))
    _probes[door.key] = probe
    return door


class HookGuards:
    """While one of these is there, compiled code is not used for modules with other hooks than it was traced with.

    PyTorch looks at hooks only if told to. Code that was compiled before may have been traced without them: it is
    thrown away, once, and compiled again when it is called.
    """

    _n_there = 0
    _theirs = True

    def __init__(self):
        if HookGuards._n_there == 0:
            HookGuards._theirs = self._config().skip_nnmodule_hook_guards
        HookGuards._n_there += 1
        if HookGuards._theirs:
            self._config().skip_nnmodule_hook_guards = False
            torch.compiler.reset()

    def remove(self) -> None:
        HookGuards._n_there -= 1
        if HookGuards._n_there == 0:
            self._config().skip_nnmodule_hook_guards = HookGuards._theirs

    @staticmethod
    def _config():
        import torch._dynamo.config

        return torch._dynamo.config


# In traced code.


def enter(door: Door, place: int, given: Given) -> None:
    cached = given.n_cached if isinstance(given.n_cached, torch.Tensor) else None
    torch.ops.maxact.enter(
        door.order,
        door.key,
        place,
        given.name,
        given.inputs,
        given.attention_mask,
        given.other_mask,
        given.position_ids,
        0 if cached is not None else given.n_cached,
        cached,
    )


def see(door: Door, place: int, x: torch.Tensor) -> None:
    torch.ops.maxact.see(door.order, door.key, place, x)


def see_experts(door: Door, place: int, product: torch.Tensor, hidden: torch.Tensor, index: torch.Tensor) -> None:
    torch.ops.maxact.see_experts(door.order, door.key, place, product, hidden, index)


def leave(door: Door, place: int) -> None:
    torch.ops.maxact.leave(door.order, door.key, place)


# When the graph runs. A graph outlives its probe if it was compiled while the probe was there.


def _enter(order, key, place, name, inputs, attention_mask, other_mask, position_ids, n_cached, cached) -> None:
    if probe := _probes.get(key):
        cached = n_cached if cached is None else cached
        probe.enter_at(place, Given(name, inputs, attention_mask, other_mask, position_ids, cached))


def _see(order, key, place, x) -> None:
    if probe := _probes.get(key):
        probe.see_at(place, x)


def _see_experts(order, key, place, product, hidden, index) -> None:
    if probe := _probes.get(key):
        probe.see_experts_at(place, product, hidden, index)


def _leave(order, key, place) -> None:
    if probe := _probes.get(key):
        probe.leave_at(place)


_library = torch.library.Library("maxact", "FRAGMENT")
_TO = "Tensor(a!) order, int key, int place"
for _name, _arguments, _implementation in (
    (
        "enter",
        ", str name, Tensor? inputs, Tensor? attention_mask, str other_mask, Tensor? position_ids, SymInt n_cached, "
        "Tensor? cached",
        _enter,
    ),
    ("see", ", Tensor x", _see),
    ("see_experts", ", Tensor product, Tensor hidden, Tensor index", _see_experts),
    ("leave", "", _leave),
):
    # What they allocate must outlast a graph: the compiler's own CUDA graphs end before them and begin again after.
    _library.define(f"{_name}({_TO}{_arguments}) -> ()", tags=(torch.Tag.cudagraph_unsafe,))
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    _library.impl(_name, lambda *arguments: None, "Meta")

"""States of several processes made one, by four collectives whatever the number of states.

1. A digest of every state's options is gathered: states that do not belong together are an error in every process.
2. Maxima, packed: all fields of the rule `max`, and the values of `tied`.
3. Sums, packed: all fields of the rule `sum`, and the counts of `tied` where the value is the largest.
4. Rankings, gathered: the rows of every `best` rule; each process sorts them.

The rules are exact, so the result has the bits that `merge` gives, in every process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from .fields import RANKINGS, fields
from .merge import merge_ranking


def all_reduce(states: Sequence, group=None) -> None:
    """Fold the states of all processes of `group` into each other, in place: the i-th with the i-th of the others.

    Every process of the group must call it, with states of the same options in the same order, on any devices.
    Raises ValueError in every process, and changes nothing, if their options differ.
    """
    device = device_of(group)
    _check_options(states, group, device)

    maxima = [state.fields[name] for state in states for name in _of(state, "max", tied="absmax")]
    own = [state.fields["absmax"].clone() for state in states]
    _reduce(maxima, dist.ReduceOp.MAX, torch.float32, group, device)
    for state, absmax in zip(states, own, strict=True):
        state.fields["n_absmax"].mul_(absmax == state.fields["absmax"])
    sums = [state.fields[name] for state in states for name in _of(state, "sum", tied="n_absmax")]
    _reduce(sums, dist.ReduceOp.SUM, torch.int64, group, device)
    _rank(states, group, device)


def _of(state, rule: str, tied: str) -> list[str]:
    return [field.name for field in fields(state.options) if field.rule == rule] + [tied]


def device_of(group=None) -> torch.device:
    """Where the backend of the group wants its tensors."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
    )


def _check_options(states: Sequence, group, device: torch.device) -> None:
    options = json.dumps([state.options.to_json() for state in states], sort_keys=True)
    digest = torch.tensor(list(hashlib.sha256(options.encode()).digest()), dtype=torch.uint8, device=device)
    gathered = torch.stack(_gather(digest, group)).cpu()
    other = (gathered != gathered[0]).any(1).nonzero().flatten().tolist()
    if other:
        raise ValueError(
            f"states: process {other[0]} of the group has other options than process 0; every process must give states "
            "made with the same width, dtype and options, in the same order"
        )


def _reduce(tensors: list[torch.Tensor], op, dtype: torch.dtype, group, device: torch.device) -> None:
    """One collective over all of the tensors, in place."""
    packed = _pack(tensors, dtype, device)
    dist.all_reduce(packed, op, group)
    _unpack(packed, tensors)


def _rank(states: Sequence, group, device: torch.device) -> None:
    """Keep the best rows of all processes in every ranking. A float32 travels as its bits, so nan stays as it is."""
    columns = [state.fields[name] for state in states for ranking in RANKINGS.values() for name in ranking]
    bits = [c.view(torch.int32) if c.dtype is torch.float32 else c for c in columns]
    own = _pack(bits, torch.int64, device)
    for rank, packed in enumerate(_gather(own, group)):
        if rank == dist.get_rank(group):
            continue
        theirs = [torch.empty_like(c) for c in columns]
        _unpack(packed, [t.view(torch.int32) if t.dtype is torch.float32 else t for t in theirs])
        rows = iter(theirs)
        for state in states:
            for ranking, names in RANKINGS.items():
                merge_ranking(ranking, state.fields, {name: next(rows) for name in names})


def _gather(tensor: torch.Tensor, group) -> list[torch.Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, tensor, group)
    return gathered


def _pack(tensors: Iterable[torch.Tensor], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.cat([t.reshape(-1).to(device, dtype) for t in tensors] or [torch.zeros(0, dtype=dtype, device=device)])


def _unpack(packed: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    start = 0
    for t in tensors:
        t.copy_(packed[start : start + t.numel()].view(t.shape))
        start += t.numel()

"""Several processes measure together: each a share of the batches, with a copy of the model; at the end all know all.

Processes talk through the store of torch.distributed until the end, when `all_reduce` makes their states one. So one
that stops is noticed by the others between batches, by its name, and not by a collective that hangs.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from maxact_kernels import ProbeState
from maxact_kernels.all_reduce import all_reduce, device_of
from maxact_kernels.fields import Options

from .split import Split

if TYPE_CHECKING:
    from .hooks import Probe

BEAT_S = 2.0  # between two signs of life of a process
SILENCE_S = 120.0  # without one, it is taken for dead: far longer than a forward pass holds up a thread
_calls = itertools.count()  # of the measurements of this process; the same in all of them


class Stopped(RuntimeError):
    """Another process of the measurement has stopped; says which, and why."""


class Team:
    """The processes of torch.distributed that share the batches: this one is `rank` of `size`; alone, 0 of 1.

    Processes that share one copy of a model share no batches: each measures all of them.
    Used as a context: what goes wrong inside is told to the others.
    """

    def __init__(self, split: Split):
        self._place, self._n = (dist.get_rank(), n_processes()) if n_processes() > 1 else (0, 1)  # in torch.distributed
        self.rank, self.size = (self._place, self._n) if split.size == 1 else (0, 1)
        self.writes = self.rank == self._place  # or another process knows the same
        self.in_step = split.in_step
        self.independent = split == Split()  # a forward pass concerns no other process
        self._store, self._n_gathered = None, itertools.count()
        if self._n > 1:
            self._store = dist.PrefixStore(f"maxact/{next(_calls)}", dist.distributed_c10d._get_default_store())
        self._ended = threading.Event()
        self._n_tokens = 0
        self._n_tokens_of = {rank: 0 for rank in range(self._n) if rank != self._place}  # as last heard

    def __enter__(self) -> Team:
        if self._store is not None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._store is None:
            return
        self._ended.set()
        self._thread.join()
        if error is not None and not isinstance(error, Stopped):
            sentence = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{kind.__name__}: {error}"
            self._fail(self._place, sentence)

    def check(self) -> None:
        """Raises Stopped if another process has."""
        if self._store is not None and self._has("stopped"):
            raise Stopped(self._store.get("stopped").decode())

    def tell(self, n_tokens: int) -> int:
        """Tell the others how many tokens this process has measured; returns how many all have, as far as is known."""
        self._n_tokens = n_tokens
        return n_tokens + (sum(self._n_tokens_of.values()) if self.size > 1 else 0)

    def goes_on(self, has_work: bool) -> bool:
        """Whether there is a next forward pass: where all processes go in step, if any of them has work."""
        if not self.in_step:
            return has_work
        some = torch.tensor(int(has_work), device=device_of())
        dist.all_reduce(some, dist.ReduceOp.MAX)
        return bool(some)

    def gather(self, value) -> list:
        """The JSON-able value of every process that shares the batches, in the order of ranks; of processes with one
        copy of a model, that of the first. Raises Stopped if one does not come to this."""
        if self._store is None:
            return [value]
        place = f"gather/{next(self._n_gathered)}"
        self._store.set(f"{place}/{self._place}", json.dumps(value))
        wait = 0.001
        while not self._has(*(f"{place}/{rank}" for rank in range(self._n))):
            self.check()
            time.sleep(wait)
            wait = min(2 * wait, 0.05)
        return [json.loads(self._store.get(f"{place}/{rank}")) for rank in range(self.size)]

    def all_reduce(self, probe: Probe) -> None:
        """Give the probe all that any process's has seen, at every site and group for which one has a state."""
        if self.size == 1:
            return
        known = self.gather([[*key, state.options.to_json()] for key, state in probe.all_states.items()])
        options = {(site, group): values for rows in known for site, group, values in rows}
        missing = options.keys() - probe.all_states.keys()
        probe.merge({key: _empty(Options.from_json(options[key])) for key in missing})
        states = probe.all_states
        all_reduce([states[key] for key in sorted(options, key=lambda key: (key[0], key[1] or ""))])

    def _has(self, *keys: str) -> bool:
        try:
            return self._store.check(list(keys))
        except RuntimeError as error:
            raise Stopped(f"the process that holds the store, mostly rank 0, is gone ({error})") from None

    def _fail(self, rank: int, sentence: str) -> None:
        try:
            self._store.compare_set("stopped", "", f"rank {rank} has stopped: {sentence}"[:2000])
        except RuntimeError:
            pass  # the store is gone, as every other process will see for itself

    def _watch(self) -> None:
        """In a thread: give signs of life, and report processes that give none."""
        heard = {rank: ("", time.monotonic()) for rank in self._n_tokens_of}
        for n in itertools.count():
            try:
                self._store.set(f"beat/{self._place}", f"{n} {self._n_tokens}")
                for rank, (last, when) in heard.items():
                    beat = self._store.get(f"beat/{rank}").decode() if self._store.check([f"beat/{rank}"]) else ""
                    if beat != last:
                        heard[rank] = beat, time.monotonic()
                        self._n_tokens_of[rank] = int(beat.split()[1])
                    elif time.monotonic() - when > SILENCE_S:
                        self._fail(rank, f"no sign of life for {SILENCE_S:g} s")
            except RuntimeError:
                return  # the store is gone, as `check` will say
            if self._ended.wait(BEAT_S):
                return


def _empty(options: Options) -> ProbeState:
    others = {name: value for name, value in options.to_json().items() if name not in ("d", "dtype")}
    return ProbeState(options.d, getattr(torch, options.dtype), **others)


def n_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join(device: str) -> tuple[int, str]:
    """Under torchrun, join the other processes; this one's rank, and its device for "auto". Without it, rank 0.

    Raises ValueError if there is not a GPU for each process of this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        if on_gpu:
            if device not in ("auto", "cuda"):
                raise ValueError(
                    f"device: {device!r} is one GPU for several processes; leave it to torchrun, or say cpu"
                )
            place, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if place >= n_gpus:
                raise ValueError(f"process {place + 1} of this machine has no GPU of its own: there are {n_gpus}")
            device = f"cuda:{place}"
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return (dist.get_rank() if dist.is_initialized() else 0), device


def leave() -> None:
    """Leave the other processes; without any, nothing."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

"""What a run has measured so far, on disk, so that it can be killed at any moment and goes on.

A checkpoint is a directory of parts. A part holds the states of one process since it started, and which samples they
have seen. No sample is in two parts, and parts are only ever replaced by a later part of the same process, in one step.
So what was measured is the merge of all parts, whenever the last process died and however many there are the next time.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from maxact_kernels import ProbeState
from maxact_kernels.fields import Options
from maxact_kernels.storage import pack, read_safetensors, unpack, write_atomically

from .identity import differences
from .parallel import Team
from .planning import pack_samples, unpack_samples
from .site_states import Key

SHARE = 0.01  # of the run's time goes into checkpoints
_BYTES_PER_S = 100e6  # assumed of the first write: a slow disk
_SCHEMA = "1"


class Checkpoint:
    """The parts that earlier processes left in `directory`, and the part of this one. Without a directory, nothing.

    samples: what the parts hold. budget: the smallest tokens of a batch that they went on with. seconds: the longest
    that one of them measured. Of the parts that several processes of a team see, each takes its share.

    Raises FileExistsError if there are parts and `resume` is False, ValueError if they are of something else.
    """

    def __init__(
        self,
        directory: str | os.PathLike | None,
        identity: Mapping,
        resume: bool,
        team: Team,
        note: Callable[[str], None],
    ):
        self.directory = None if directory is None else Path(directory)
        self._writes = team.writes
        self._identity = json.loads(json.dumps(identity))  # as it comes back from a file
        self._name = f"{uuid.uuid4().hex}.safetensors"
        self._note = note
        self._next = None  # when to write, on the clock of time.perf_counter
        paths = sorted(self.directory.glob("*.safetensors")) if self.directory else []
        if paths and not resume:
            raise FileExistsError(
                f"{directory}: holds the checkpoint of a run that did not end; go on with it with --resume "
                "(resume=True), or start anew with --overwrite"
            )
        self.samples: set[int] = set()
        self.budget, self.seconds = sys.maxsize, 0.0
        self._mine: list[Path] = []  # of the earlier parts, whose states this process takes
        seen_by = team.gather({path.name: self._look_at(path) for path in paths})
        for i, name in enumerate(sorted({name for parts in seen_by for name in parts})):
            ranks = [rank for rank, parts in enumerate(seen_by) if name in parts]
            self._take(name, *seen_by[ranks[0]][name])
            if ranks[i % len(ranks)] == team.rank:
                self._mine.append(self.directory / name)

    def _look_at(self, path: Path) -> tuple[str, int, float]:
        arrays, about = _read(path)
        found = differences(self._identity, about["identity"])
        if found:
            raise ValueError(
                f"{self.directory}: the checkpoint is of another measurement: {found}; measure with what it was made "
                "with, or start anew with --overwrite"
            )
        return pack_samples(arrays["samples"].tolist()), about["budget"], about["seconds"]

    def _take(self, name: str, packed: str, budget: int, seconds: float) -> None:
        samples = set(unpack_samples(packed))
        if samples & self.samples:
            raise ValueError(
                f"{self.directory}: {name} holds samples that another part holds too; start anew with --overwrite"
            )
        self.samples |= samples
        self.budget, self.seconds = min(budget, self.budget), max(seconds, self.seconds)

    @property
    def advice(self) -> str:
        if self.directory is None:
            return "nothing of it was kept, as no checkpoint was asked for"
        return f"what this process measured is kept in {self.directory}: go on with --resume"

    def states(self) -> Iterator[dict[Key, ProbeState]]:
        """The states of one of this process's earlier parts after another, on the CPU."""
        for path in self._mine:
            arrays, about = _read(path)
            states = {}
            for i, (site, group, options) in enumerate(about["states"]):
                prefix = f"{i}/"
                packed = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
                try:
                    options = Options.from_json(options)
                    states[site, group] = ProbeState.from_arrays(options, unpack(options, packed))
                except ValueError as error:
                    raise ValueError(f"{path}: {site}: {error}") from None
            yield states

    def offer(self, states: Mapping[Key, ProbeState], samples: Collection[int], budget: int, seconds: float) -> None:
        """Write this process's part if it is time: if all writes together then take at most SHARE of the run."""
        if self.directory is None:
            return
        now = time.perf_counter()
        if self._next is None:
            self._next = now + sum(state.buffer.nbytes for state in states.values()) / _BYTES_PER_S / SHARE
        if now >= self._next:
            self.write(states, samples, budget, seconds)

    def write(self, states: Mapping[Key, ProbeState], samples: Collection[int], budget: int, seconds: float) -> None:
        """Write this process's part. A disk that is full is noted, and the run goes on."""
        if self.directory is None or not samples or not self._writes:
            return
        arrays = {"samples": np.array(sorted(samples), dtype=np.int64)}
        rows = [[*key, state.options.to_json()] for key, state in states.items()]
        about = {"identity": self._identity, "states": rows, "budget": budget, "seconds": seconds}
        host = [state.host_arrays(copy=False) for state in states.values()]  # waits for a GPU, which is no cost
        start = time.perf_counter()
        for i, state in enumerate(states.values()):
            arrays |= {f"{i}/{field}": array for field, array in pack(state.options, host[i]).items()}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(
                self.directory / self._name,
                safetensors.numpy.save(arrays, {"maxact_checkpoint": _SCHEMA, "about": json.dumps(about)}),
            )
        except OSError as error:
            self._note(f"{self.directory}: the checkpoint could not be written ({error}); going on without it.")
        now = time.perf_counter()
        self._next = now + (now - start) / SHARE


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a part and what it says of itself. Raises OSError, or ValueError if it is no part."""
    arrays, metadata = read_safetensors(path)
    try:
        if metadata.get("maxact_checkpoint") != _SCHEMA:
            raise ValueError(f"schema {metadata.get('maxact_checkpoint')!r}, expected {_SCHEMA!r}")
        about = json.loads(metadata["about"])
        right = isinstance(about["identity"], dict) and isinstance(about["budget"], int)
        right = right and isinstance(about["seconds"], (int, float)) and all(map(_is_state, about["states"]))
        if not right or arrays["samples"].dtype != np.int64 or arrays["samples"].ndim != 1:
            raise ValueError("not what a checkpoint holds")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); start anew with --overwrite") from None
    return arrays, about


def _is_state(row) -> bool:
    right = isinstance(row, list) and len(row) == 3
    return right and isinstance(row[0], str) and isinstance(row[1], (str, type(None)))

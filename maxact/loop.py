"""Batch after batch through a model until all are measured or something ends it; the states then hold whole batches."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from .checkpoint import Checkpoint
from .encoding import Encoded
from .hooks import Probe
from .offload import input_device
from .parallel import Stopped, Team
from .planning import Work, pack_samples, unpack_samples
from .run import ROUTERS, site_kind
from .token_kinds import NAMES


class Progress(NamedTuple):
    """What `on_progress` is told after a batch."""

    n_tokens: int  # measured so far
    n_tokens_total: int
    seconds: float
    M: float  # largest |x| so far, routers left out; of this process, since it started


class Measured(NamedTuple):
    samples: list[int]
    whole: bool  # False: interrupted from the keyboard
    seconds: float


def measure_batches(
    work: Work,
    probe: Probe,
    forward: Callable[[list[int], bool], None],
    checkpoint: Checkpoint,
    team: Team,
    on_progress: Callable[[Progress], None] | None,
    note: Callable[[str], None],
) -> Measured:
    """Measure what `work` has left; then the probe's states hold what earlier processes and the team measured, too.

    forward: is given samples, and whether to count them: a process without work goes along where all must go in step.
    Whatever ends it before, the checkpoint holds the whole batches that were measured.
    """
    start = time.perf_counter() - checkpoint.seconds
    n_tokens_earlier = sum(map(work.length, work.earlier))

    def after_batch() -> None:
        team.check()
        checkpoint.offer(probe.all_states, work.done, work.budget, time.perf_counter() - start)
        n_tokens = n_tokens_earlier + team.tell(work.n_tokens)
        if on_progress:
            on_progress(Progress(n_tokens, work.n_tokens_total, time.perf_counter() - start, largest(probe)))

    ended = False
    try:
        whole = _run_batches(work, probe, forward, team, after_batch, note)
        if team.size > 1 and not whole:
            raise KeyboardInterrupt(f"interrupted; {checkpoint.advice}.")
        ends = team.gather([pack_samples(work.done), work.budget])
        ended = whole
    except Stopped as error:
        raise Stopped(f"{error}; {checkpoint.advice}.") from None
    finally:
        if not ended:
            checkpoint.write(probe.all_states, work.done, work.budget, time.perf_counter() - start)
    for states in checkpoint.states():
        probe.merge(states)
    team.all_reduce(probe)
    largest(probe)  # reads every state, so that the seconds hold what a GPU had yet to do
    work.budget = min(budget for _, budget in ends)
    samples = sorted({*work.earlier, *(i for packed, _ in ends for i in unpack_samples(packed))})
    return Measured(samples, whole, time.perf_counter() - start)


def _run_batches(
    work: Work,
    probe: Probe,
    forward: Callable[[list[int], bool], None],
    team: Team,
    after_batch: Callable[[], None],
    note: Callable[[str], None],
) -> bool:
    """Batch after batch until there is none left, True, or an interruption from the keyboard, False.

    Whatever ends it, the states hold whole batches, those of the samples that `work` has done.
    """
    before, n_done = None, 0
    try:
        while team.goes_on((samples := work.next()) is not None):
            before, n_done = None, len(work.done)
            before = probe.snapshot()
            try:
                forward(samples or work.any_batch, samples is not None)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                probe.restore(before)
                _halve(work, samples, team, note, error)
                continue
            if samples is not None:
                work.finish(samples)
                after_batch()
    except BaseException as end:
        if before is not None and len(work.done) == n_done:
            probe.restore(before)
        if isinstance(end, KeyboardInterrupt):
            return False
        raise
    return True


def largest(probe: Probe) -> float:
    """The largest |x| so far, routers left out; waits for each device once."""
    peaks: dict[torch.device, list[torch.Tensor]] = {}
    for name, state in probe.states.items():
        if site_kind(name) not in ROUTERS:
            peaks.setdefault(state.device, []).append(state.fields["absmax"])
    return max((float(torch.stack(of_device).max()) for of_device in peaks.values()), default=0.0)


def forward(
    model,
    probe: Probe,
    encoded: list[Encoded],
    kinds: Sequence[int],
    batch: list[int],
    counted: bool = True,
) -> None:
    """One forward pass of the decoder, without the LM head, over samples padded on the right.

    kinds: codes of `token_kinds`, each of which the probe counts as a group. counted: False hides all tokens.
    """
    width = len(encoded[batch[0]].ids)  # the longest comes first
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, i in enumerate(batch):
        ids[row, : len(encoded[i].ids)] = torch.from_numpy(np.array(encoded[i].ids))
        mask[row, : len(encoded[i].ids)] = True
    device = input_device(model)
    groups = {}
    if kinds:
        code = torch.zeros(len(batch), width, dtype=torch.uint8)
        for row, i in enumerate(batch):
            if encoded[i].kinds:
                code[row, : len(encoded[i].ids)] = torch.tensor(list(encoded[i].kinds), dtype=torch.uint8)
        code = code.to(device)
        groups = {NAMES[kind]: code == kind for kind in kinds}
    ids, mask = ids.to(device), mask.to(device)
    probe.batch(mask & counted, torch.tensor([encoded[i].index for i in batch], device=device), groups)
    given = dict(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    with torch.inference_mode():
        if isinstance(model, FSDPModule):
            model(**given, logits_to_keep=1)  # all weights are gathered from the outermost module on
        else:
            decoder = model.get_submodule(probe.site_map.decoder)
            if "use_cache" not in inspect.signature(decoder.forward).parameters:
                del given["use_cache"]
            decoder(**given)


def _halve(work: Work, samples: list[int], team: Team, note: Callable[[str], None], error: Exception) -> None:
    """Go on with half the tokens in a batch; raises torch.OutOfMemoryError if one sample is too much."""
    if not team.independent:
        raise torch.OutOfMemoryError(
            f"a batch of up to {work.budget} tokens does not fit in memory; lower tokens_per_batch (--tokens-per-batch): "
            "batches of a model that is spread over processes are not halved"
        ) from error
    if len(samples) == 1:
        raise torch.OutOfMemoryError(
            f"a single sample of {work.n_padded(samples)} tokens does not fit in memory; lower max_length (--max-length)"
        ) from error
    work.halve(samples)
    note(f"A batch of {work.n_padded(samples)} tokens did not fit in memory; going on with {work.budget}.")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)  # PyTorch's CPU allocators

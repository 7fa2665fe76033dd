"""Processes that each saw a part have, after all_reduce, the bits of one that saw everything."""

import processes
import pytest
import torch
import torch.distributed as dist
from probes import DTYPES, EVERYTHING, bits, noise

from maxact_kernels import ProbeState, fused_probe
from maxact_kernels.all_reduce import all_reduce

N_TOKENS = 30


def streams() -> list[tuple[torch.Tensor, torch.Tensor, dict]]:
    """Tensors with ties, nan, inf and zeros, their token ids, and the options of their states."""
    found = []
    for seed, dtype in enumerate(DTYPES):
        x = noise(N_TOKENS, 12 + seed, dtype=dtype, seed=seed)
        x[3::7] = x[0]  # the same largest values in every part
        x[5, 2], x[17, 3], x[20] = torch.nan, -torch.inf, 0
        ids = torch.arange(N_TOKENS) + (torch.arange(N_TOKENS) % 3 << 32)
        found.append((x, ids, EVERYTHING | dict(counts=seed != 1, medians=seed != 2, int8_per_token=seed == 0)))
    found.append((torch.full((N_TOKENS, 3), -7.0), torch.zeros(N_TOKENS, dtype=torch.int64), dict(topk=40)))
    return found


def seen(i: int, rank: int, n: int) -> torch.Tensor:
    """Which tokens of the i-th stream a process sees: every n-th; the last process nothing of one stream."""
    tokens = torch.arange(N_TOKENS) % n == rank
    return tokens & (i != 2 or rank != n - 1)


def in_one_process(rank: int) -> dict:
    """The buffers after all three processes reduced, and after the first two did; how many collectives that took."""
    calls = []
    for name in ("all_reduce", "all_gather"):
        real = getattr(dist, name)
        setattr(dist, name, lambda *args, real=real: (calls.append(1), real(*args)))
    pair = dist.new_group([0, 1])
    buffers = []
    for group, n in ((None, 3), (pair, 2)):
        if rank >= n:
            continue
        states = [ProbeState(x.shape[-1], x.dtype, **options) for x, _, options in streams()]
        for i, (state, (x, ids, _)) in enumerate(zip(states, streams(), strict=True)):
            part = seen(i, rank, n)
            state.update(x[part], None, ids[part])
        all_reduce(states, group)
        buffers += [state.buffer for state in states]
    n_calls = len(calls)

    x, ids, options = streams()[0]
    single = ProbeState(x.shape[-1], x.dtype, **options)
    part = seen(0, rank, 3)
    single.update(x[part], None, ids[part])
    single.all_reduce()
    other = ProbeState(8, torch.float32, topk=3 + (rank == 1))
    untouched, refused = other.buffer.clone(), ""
    try:
        other.all_reduce()
    except ValueError as error:
        refused = str(error)
    all_reduce([])
    assert torch.equal(other.buffer, untouched)
    return dict(buffers=buffers, single=single.buffer, n_calls=n_calls, refused=refused)


@pytest.fixture(scope="module")
def results() -> list[dict]:
    return processes.run(in_one_process, 3)


def assert_holds(buffer: torch.Tensor, i: int, n: int) -> None:
    x, ids, options = streams()[i]
    tokens = torch.stack([seen(i, rank, n) for rank in range(n)]).any(0)
    expected = fused_probe(x[tokens], token_ids=ids[tokens], **options)
    mine = ProbeState(x.shape[-1], x.dtype, **options)
    mine.buffer.copy_(buffer)
    for name in expected.fields:
        assert torch.equal(bits(mine.fields[name]), bits(expected.fields[name])), name


def test_every_process_has_the_bits_of_one_that_saw_everything(results):
    for rank, result in enumerate(results):
        buffers = iter(result["buffers"])
        for n in (3, 2)[: 1 + (rank < 2)]:
            for i in range(len(streams())):
                assert_holds(next(buffers), i, n)
        assert next(buffers, None) is None


def test_one_state_alone_does_as_many_do(results):
    for result in results:
        assert_holds(result["single"], 0, 3)


def test_it_takes_four_collectives_whatever_the_number_of_states(results):
    assert [result["n_calls"] for result in results] == [8, 8, 4]


def test_states_that_do_not_belong_together_are_refused_in_every_process(results):
    for result in results:
        assert "process 1 of the group has other options than process 0" in result["refused"]

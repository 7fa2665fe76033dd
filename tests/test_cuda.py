"""What a GPU adds to the laws: streams, graphs, devices, no waiting and no allocation, determinism, size."""

import pytest
import torch
from probes import EVERYTHING, REFERENCE, assert_agrees, assert_identical, noise

from maxact_kernels import ProbeState, backends, fused_probe

pytestmark = pytest.mark.gpu
GPU_BACKENDS = [row for row in backends() if row.device_types and "cuda" in row.device_types]


@pytest.fixture(params=GPU_BACKENDS, ids=lambda row: row.name)
def backend(request):
    """The name of each backend that runs on a GPU."""
    if request.param.why_not or not torch.cuda.is_available():
        pytest.skip(request.param.why_not or "no GPU here")
    return request.param.name


def state_for(x: torch.Tensor, backend: str, **options) -> ProbeState:
    return ProbeState(x.shape[-1], x.dtype, x.device, backend=backend, **options)


@pytest.fixture
def x(backend):  # first whether there is a GPU
    return noise(3000, 1024, dtype=torch.bfloat16).cuda()


def test_an_update_waits_for_nothing_and_allocates_nothing(x, backend):
    state, mask = state_for(x, backend), torch.rand(3000, device="cuda") < 0.7
    ids = torch.arange(3000, device="cuda")
    for arguments in ((x,), (x, mask), (x, mask, ids)):
        state.update(*arguments)
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            state.update(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_a_hundred_replays_of_a_graph_count_a_hundred_times(x, backend):
    eager, state = state_for(x, backend), state_for(x, backend)
    warm = state_for(x, backend)
    warm.update(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        state.update(x)
    for _ in range(100):
        graph.replay()
        eager.update(x)
    assert_identical(state, eager)  # default token ids included: the count of tokens is read on the device
    assert state.summary().n_tokens == 300_000


def test_twenty_runs_give_the_same_bits_float_sums_too(x, backend):
    first = fused_probe(x, backend=backend, **EVERYTHING)
    for _ in range(20):
        assert_identical(fused_probe(x, backend=backend, **EVERYTHING), first)


def test_the_same_bits_however_the_rows_are_split(x, backend):
    whole = fused_probe(x, backend=backend, **EVERYTHING)
    for sizes in ((1, 2999), (1000, 1000, 1000), (37, 2000, 963)):
        parts = state_for(x, backend, **EVERYTHING)
        for part in x.split(sizes):
            parts.update(part)
        assert_identical(parts, whole)


def test_updates_run_on_the_current_stream(x, backend):
    stream = torch.cuda.Stream()
    state = state_for(x, backend)
    torch.cuda.synchronize()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = x.clone()
        for _ in range(50):
            y.mul_(1.01)  # long enough that another stream would read too early
        state.update(y)
    torch.cuda.current_stream().wait_stream(stream)
    assert_identical(state, fused_probe(y, backend=backend))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_tensor_on_another_gpu_than_the_current_is_measured_there(x, backend):
    with torch.cuda.device(0):
        there = fused_probe(x.to("cuda:1"), backend=backend)
    assert there.device == torch.device("cuda:1")
    here = fused_probe(x, backend=backend)
    assert here.summary().scalars() == there.summary().scalars()


def test_a_state_from_the_gpu_merges_with_one_from_the_cpu(x, backend):
    gpu = fused_probe(x, backend=backend)
    cpu = fused_probe(x.cpu(), backend="reference")
    gpu.merge(cpu)
    twice = fused_probe(x, backend=backend)
    twice.merge(fused_probe(x, backend=backend))
    assert gpu.summary().n_elements == twice.summary().n_elements == 2 * x.numel()
    assert (gpu.summary().counts == twice.summary().counts).all()


def test_more_than_two_to_the_31_elements_are_counted_and_found(backend):
    n, d = (1 << 31) // 4096 + 100, 4096
    x = torch.zeros(n, d, dtype=torch.bfloat16, device="cuda")
    x[-1, -1], x[-3, 7], x[5, 5] = -3.0, 2.0, 1.0
    s = fused_probe(x, topk=4, backend=backend).summary()
    assert s.n_elements == n * d == s.n_zero + 3
    assert s.topk.values.tolist() == [-3.0, 2.0, 1.0, 0.0]
    assert s.topk.token_ids.tolist() == [n - 1, n - 3, 5, 0] and s.topk.features.tolist() == [d - 1, 7, 5, 0]


@pytest.mark.parametrize("data", ["ascending", "descending", "equal", "zeros"])
@pytest.mark.parametrize("topk", [1, 100, 1024])
def test_the_worst_orders_for_a_list_of_candidates(data, topk, backend):
    n, d = 4000, 512
    ramp = torch.arange(n * d, dtype=torch.float32).view(n, d) * 1e-3
    x = {"ascending": ramp, "descending": ramp.flip(0), "equal": ramp * 0 + 7, "zeros": ramp * 0}[data].bfloat16()
    ours = fused_probe(x.cuda(), topk=topk, backend=backend)
    assert_agrees(ours, REFERENCE.probe(x, topk=topk), x)


# Every kernel: rows side by side (64, 128, 576), one warp (256 to 5120), teams of 2 to 8 (5376 and up; float32 half of
# that), tails of rows, rows that are no multiple of 16 bytes, and rows wider than any team holds.
WIDTHS = (8, 64, 100, 128, 256, 512, 576, 1024, 1536, 2048, 2304, 2560, 2880, 3200, 4096, 4097, 4608, 5120, 5376, 8192, 12288, 18944, 36864, 50257)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("d", WIDTHS)
def test_rows_of_every_width_with_all_that_takes_them_off_the_fast_way(d, dtype, backend):
    x = noise(70, d, dtype=dtype)
    x[3] = 0
    x[5, d // 2], x[7, -1], x[11] = float("nan"), float("-inf"), float("inf")
    x[13, 0] = 60000 if dtype is torch.float16 else 1e30  # beyond the part of the table that a block holds
    x[17] = 1 + torch.rand(d) * 2.0**-8  # float32: one upper half for all, so that the lower ones decide the median
    x[19] = x[19].abs()
    x[21] = 0 if dtype is torch.float16 else 2.0**59  # squares of float32, but not their sum
    mask = torch.rand(70, generator=torch.Generator().manual_seed(d)) < 0.8
    for options in (EVERYTHING, {"counts": False, "medians": False, "topk": 7}):
        for hidden in (None, mask):
            ours = fused_probe(x.cuda(), mask=None if hidden is None else hidden.cuda(), backend=backend, **options)
            assert_agrees(ours, REFERENCE.probe(x, mask=hidden, **options), x if hidden is None else x[hidden])


def test_inductor_keeps_one_graph_and_the_same_bits(x, backend):
    torch._dynamo.reset()
    state, eager = state_for(x, backend), state_for(x, backend)

    def step(x):
        y = torch.nn.functional.gelu(x)
        state.update(y)
        return y + 1

    compiled = torch.compile(step, fullgraph=True)
    for _ in range(3):
        compiled(x)
    for _ in range(3):
        eager.update(torch.compile(lambda x: torch.nn.functional.gelu(x))(x))
    assert state.summary().n_tokens == 9000
    assert_identical(state, eager)

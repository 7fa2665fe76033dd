"""The CUDA kernels themselves, run on the CPU: the sources of csrc with tests/cuda_on_cpu.h in place of the one file of PTX.

What a GPU adds (speed, memory that is slow to arrive, warps that run at once) is not here; the logic is, with every
exchange between lanes, warps and blocks.
"""

import shutil
import sys

import pytest
import torch
from cuda_on_cpu import Worker, build, hazards
from probes import EVERYTHING, REFERENCE, assert_agrees, assert_identical, noise

from maxact_kernels import ProbeState

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="no g++, or no ucontext.h as glibc has it"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    worker = Worker(build(tmp_path_factory.mktemp("cuda_on_cpu")))
    yield worker
    worker.close()


WIDTHS = (8, 64, 100, 128, 256, 512, 576, 1024, 1536, 2048, 2304, 2880, 4096, 4608, 8192, 12288, 36864, 50000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("d", WIDTHS)
def test_every_kernel_gives_what_the_reference_gives(run, d, dtype):
    n = 70 if d < 9000 else 24
    x = hazards(n, d, dtype)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(d)) < 0.8
    for options in ({}, EVERYTHING, {"counts": False, "medians": False, "topk": 7}):
        for hidden in (None, mask):
            ours = run((x, hidden, None), **options)
            assert_agrees(ours, REFERENCE.probe(x, mask=hidden, **options), x if hidden is None else x[hidden])


@pytest.mark.parametrize("d", [64, 576, 1024, 4096, 8192])
def test_neither_the_order_of_threads_nor_the_number_of_blocks_changes_a_bit(run, d):
    x = hazards(200, d, torch.bfloat16)
    one = run((x, None, None), **EVERYTHING)
    for environment in ({"REVERSED": "1"}, {"N_MULTIPROCESSORS": "1"}, {"N_MULTIPROCESSORS": "132", "REVERSED": "1"}):
        assert_identical(run((x, None, None), environment=environment, **EVERYTHING), one)


@pytest.mark.parametrize("shared_bytes", [166912, 101376])  # A100; sm_86 and 89, and later GPUs that run PTX of compute_80
@pytest.mark.parametrize("d", [64, 576, 1024, 4096, 8192])
def test_gpus_with_less_shared_memory_take_other_kernels_and_give_the_same(run, d, shared_bytes):
    x = hazards(70, d, torch.bfloat16)
    environment = {"TARGET": "80", "SHARED_BYTES": str(shared_bytes)}
    assert_agrees(run((x, None, None), environment=environment), REFERENCE.probe(x), x)


def test_tiles_that_nobody_was_dealt_are_taken_once(run):
    x = noise(1000, 1024)  # on one multiprocessor more than ten tiles a warp
    ours = run((x, None, None), environment={"N_MULTIPROCESSORS": "1"})
    assert_agrees(ours, REFERENCE.probe(x), x)


def test_exact_sums_leave_the_block_before_they_overflow(run):
    row = torch.tensor([255 * 2.0**10, 255 * 2.0**2, 255 * 2.0**-6, 0, 0, 0, 0, 0]).bfloat16()  # 2^24 - 1 times 2^-6: both digits full
    x = row.expand(600_000, 8).contiguous()  # 4,095 times as many are more than 2^31
    for options in ({}, {"int8_per_token": True}):
        ours = run((x, None, None), environment={"N_MULTIPROCESSORS": "1"}, **options)
        assert_agrees(ours, REFERENCE.probe(x, **options), x)


def test_exact_sums_of_exponents_that_do_not_wait_in_the_block(run):
    x = torch.ones(400, 64).bfloat16()
    x[:140] *= -(2.0 ** -torch.arange(0, 134, 7)).repeat(7)[:, None].bfloat16()
    x[145::9, 3] = 2.0**20
    x[148::9, 4:] = 2.0**-100  # ratios of 2^100
    tiny = torch.full((40, 64), 2.0**-133).bfloat16()  # sums that are subnormal
    for rows in (x, tiny):
        for options in ({}, {"int8_per_token": True}):
            assert_agrees(run((rows, None, None), **options), REFERENCE.probe(rows, **options), rows)


@pytest.mark.parametrize("dtype, d", [(torch.bfloat16, 512), (torch.float32, 100)])
@pytest.mark.parametrize("data", ["equal", "zeros", "one huge", "ascending", "two values", "positive", "negative", "massive"])
def test_rows_that_tie_and_rows_of_few_values(run, data, dtype, d):
    n = 300
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    if data == "one huge":
        x[:, 7] = 20000
    elif data == "massive":
        x[:, 5:8] = 20000 + x[:, 5:8]
    elif data == "ascending":
        x = torch.linspace(1e-3, 1e3, n * d).view(n, d)
    else:
        x = {"equal": x * 0 + 7, "zeros": x * 0, "two values": (x > 1) + 1.0, "positive": x.abs(), "negative": -x.abs()}[data]
    x = x.to(dtype)
    for topk in (1, 100, 1024):
        assert_agrees(run((x, None, None), topk=topk), REFERENCE.probe(x, topk=topk), x)


@pytest.mark.parametrize("field", ["ratio_max", "first_nonfinite_token", "max", "neg_min"])
def test_an_update_without_any_of_the_k_largest_changes_one_record(run, field):
    loud, quiet = noise(300, 512), noise(300, 512, seed=1) / 64
    if field == "ratio_max":
        quiet[9] = 2.0**-20
        quiet[9, 5] = 1
    elif field == "first_nonfinite_token":
        quiet[11, 3] = float("nan")
    else:
        sign = 1 if field == "max" else -1
        loud, quiet = -sign * loud.abs(), sign * quiet.abs()
    expected, before = (ProbeState(512, torch.bfloat16, backend="reference", topk=20) for _ in range(2))
    for x in (loud, quiet):
        expected.update(x)
    before.update(loud)
    assert expected.fields["topk_values"].equal(before.fields["topk_values"]) and expected.fields[field] != before.fields[field]
    assert_agrees(run((loud, None, None), (quiet, None, None), topk=20), expected, torch.cat([loud, quiet]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("d", [64, 512])
@pytest.mark.parametrize("first_id", [0, 1000])  # of the first update: tokens that nobody names come before 1000, and after 0
def test_updates_that_bring_nothing_but_ties(run, first_id, d, dtype):
    x = noise(300, d, dtype=dtype)
    x[20], x[21] = 0, -x[22].abs()
    ids = torch.arange(first_id, first_id + 300)
    calls = [(x, None, ids), (x, None, None), (x / 2, None, None), (x, torch.arange(300) % 3 == 0, None), (x[:20], None, None)]
    for options in ({"topk": 1}, {"topk": 20}, {"topk": 1024}, {"counts": False, "medians": False}):
        expected = ProbeState(d, dtype, backend="reference", **options)
        for call in calls:
            expected.update(*call)
        assert_agrees(run(*calls, **options), expected, torch.cat([x, x, x / 2, x[::3], x[:20]]))


def test_elements_of_the_top_k_that_are_the_same_to_the_last_key(run):
    x, ids = torch.full((300, 512), 7.0).bfloat16(), torch.zeros(300, dtype=torch.int64)
    expected = ProbeState(512, torch.bfloat16, backend="reference")
    expected.update(x, token_ids=ids)
    assert_agrees(run((x, None, ids)), expected, x)


@pytest.mark.parametrize("d", [1024, 2048, 2560, 8192])
@pytest.mark.parametrize("n_chunks", [1, 6, 7, 16])
def test_float32_medians_among_many_elements_of_one_lane(run, d, n_chunks):
    generator = torch.Generator().manual_seed(d)
    x = torch.randn(20, d, generator=generator)
    near = torch.arange(n_chunks) * 128 + 12  # four elements in a row at each are those of the fourth lane of a warp
    for offset in range(4):
        x[:, (near + offset)[near < d]] = 0.67 + 1e-4 * torch.rand(20, int((near < d).sum()), generator=generator)
    assert_agrees(run((x, None, None)), REFERENCE.probe(x), x)


def test_a_stream_with_ids_masks_and_samples(run):
    parts = [noise(n, 256, seed=n) for n in (30, 1, 64)]
    ids = [torch.arange(len(p)) % 7 << 32 | torch.arange(len(p)) for p in parts]
    masks = [torch.rand(len(p)) < 0.6 for p in parts]
    options = dict(n_samples=7, topk=20)
    ours = run(*zip(parts, masks, ids), **options)
    expected = ProbeState(256, torch.bfloat16, backend="reference", **options)
    for call in zip(parts, masks, ids):
        expected.update(*call)
    assert_agrees(ours, expected, torch.cat([p[m] for p, m in zip(parts, masks)]))

"""The CUDA kernels themselves, run on the CPU: the sources of csrc with tests/cuda_on_cpu.h in place of the one file of PTX.

What a GPU adds (speed, memory that is slow to arrive, warps that run at once) is not here; the logic is, with every
exchange between lanes, warps and blocks.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from probes import EVERYTHING, REFERENCE, assert_agrees, assert_identical, noise

from maxact_kernels import ProbeState

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="no g++, or no ucontext.h as glibc has it"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the module `_cuda` is, compiled by g++ from the sources of the kernels, their launcher and the bindings."""
    import pybind11

    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    (folder / "cuda_runtime.h").write_text('#include "cuda_on_cpu.h"\n')
    (folder / "ceiling.cpp").write_text(
        '#include "cuda_ceiling.h"\n'
        "void maxact::cuda::read_only(const void*, size_t, void*, int, void*) {}  // of the benchmarks\n"
    )
    includes = [folder, ROOT / "tests", ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    options = ["-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-w", "-DMAXACT_ON_CPU", "-x", "c++"]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = ["g++", *options, *(f"-I{include}" for include in includes), "-c", source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return target

    names = ("cuda_bf16.cu", "cuda_fp16.cu", "cuda_fp32.cu", "cuda_probe.cu", "cuda_bindings.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*(ROOT / "csrc" / name for name in names), folder / "ceiling.cpp"]))
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", "-o", module, *objects], check=True)
    return folder


# A process beside the tests: a kernel that hangs or breaks off ends it with a sentence, and nothing else.
WORKER = """
import os, sys, torch
folder = sys.argv[1]
sys.path.insert(0, folder)
import _cuda
from maxact_kernels import ProbeState
from maxact_kernels.layout import runs

for _ in sys.stdin:
    calls, options, environment = torch.load(folder + "/case.pt")
    os.environ.update(environment)
    first = calls[0][0]
    state = ProbeState(first.shape[-1], first.dtype, "cpu", backend="reference", **options)
    o = state.options
    scratch = torch.zeros(_cuda.scratch_bytes(0, o.topk), dtype=torch.uint8)
    addresses = {name: field.data_ptr() for name, field in state.fields.items()}
    probe = _cuda.CudaProbe(addresses, o.dtype, o.d, o.topk, o.t_abs, o.t_ratio, o.n_samples, 0, scratch.data_ptr())
    for x, mask, ids in calls:
        for run in runs(x, mask, ids):
            probe.update(*run, 0)
    state.save(folder + "/state.safetensors")
    for name in environment:
        del os.environ[name]
    print("done", flush=True)
"""


class Worker:
    def __init__(self, folder: Path):
        self.folder, self.process = folder, None

    def __call__(self, *calls, environment=None, **options) -> ProbeState:
        """The state that the kernels leave after these updates: (x, mask, token_ids) each."""
        if self.process is None:
            command = [sys.executable, "-c", WORKER, self.folder]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        torch.save((calls, options, environment or {}), self.folder / "case.pt")
        self.process.stdin.write("next\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            process, self.process = self.process, None
            pytest.fail(process.communicate()[1][-2000:])
        return ProbeState.load(self.folder / "state.safetensors")


@pytest.fixture(scope="module")
def run(folder):
    worker = Worker(folder)
    yield worker
    if worker.process:
        worker.process.communicate()


def hazards(n: int, d: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows that leave the fast way in every manner."""
    x = noise(n, d, dtype=dtype)
    x[3] = 0
    x[5, d // 2], x[7, -1], x[11] = float("nan"), float("-inf"), float("inf")
    x[13, 0] = 60000 if dtype is torch.float16 else 1e30  # beyond the part of the table that a block holds
    x[14] *= 1e-30
    x[17] = 1 + torch.rand(d) * 2.0**-8  # float32: one upper half for all, so that the lower ones decide the median
    x[19] = x[19].abs()
    return x


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


def test_tiles_that_nobody_was_dealt_are_taken_once(run):
    x = noise(1000, 1024)  # on one multiprocessor more than ten tiles a warp
    ours = run((x, None, None), environment={"N_MULTIPROCESSORS": "1"})
    assert_agrees(ours, REFERENCE.probe(x), x)


@pytest.mark.parametrize("data", ["equal", "zeros", "one huge", "ascending", "two values", "positive"])
def test_rows_that_tie_and_rows_of_few_values(run, data):
    n, d = 300, 512
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    if data == "one huge":
        x[:, 7] = 20000
    elif data == "ascending":
        x = torch.linspace(1e-3, 1e3, n * d).view(n, d)
    else:
        x = {"equal": x * 0 + 7, "zeros": x * 0, "two values": (x > 1) + 1.0, "positive": x.abs()}[data]
    x = x.bfloat16()
    for topk in (1, 100, 1024):
        assert_agrees(run((x, None, None), topk=topk), REFERENCE.probe(x, topk=topk), x)


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

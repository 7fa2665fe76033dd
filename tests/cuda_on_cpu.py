"""How CUDA kernels are compiled for a CPU (cuda_on_cpu.h), run in a process of their own, and given rows of every manner."""

import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from probes import noise

from maxact_kernels import ProbeState

ROOT = Path(__file__).parent.parent


def build(folder: Path, *options: str, sources: Path = ROOT / "csrc") -> Path:
    """Makes `folder` hold the module `_cuda`: the kernels, their launcher and the bindings, compiled by g++."""
    import pybind11

    (folder / "cuda_runtime.h").write_text('#include "cuda_on_cpu.h"\n')
    (folder / "ceiling.cpp").write_text(
        '#include "cuda_ceiling.h"\n'
        "void maxact::cuda::read_only(const void*, size_t, void*, int, void*) {}  // of the benchmarks\n"
    )
    includes = [folder, ROOT / "tests", sources, pybind11.get_include(), sysconfig.get_path("include")]
    options = ["-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-w", "-DMAXACT_ON_CPU", "-x", "c++", *options]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = ["g++", *options, *(f"-I{include}" for include in includes), "-c", source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return target

    names = ("cuda_bf16.cu", "cuda_fp16.cu", "cuda_fp32.cu", "cuda_probe.cu", "cuda_bindings.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*(sources / name for name in names), folder / "ceiling.cpp"]))
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
    def __init__(self, folder: Path, command: tuple = (), environment: dict | None = None):
        self.folder, self.process = folder, None
        self.command = [*command, sys.executable, "-c", WORKER, folder]
        self.environment = {**os.environ, **(environment or {})}

    def __call__(self, *calls, environment=None, **options) -> ProbeState:
        """The state that the kernels leave after these updates: (x, mask, token_ids) each."""
        if self.process is None:
            self.errors = open(self.folder / "errors.txt", "w+")  # longer than a pipe holds
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
            self.process = subprocess.Popen(self.command, env=self.environment, text=True, **pipes)
        torch.save((calls, options, environment or {}), self.folder / "case.pt")
        self.process.stdin.write("next\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            self.close()
            said = (self.folder / "errors.txt").read_text()
            pytest.fail(said if len(said) < 6000 else f"{said[:4000]}\n...\n{said[-2000:]}")
        return ProbeState.load(self.folder / "state.safetensors")

    def close(self):
        if self.process:
            self.process.communicate()
            self.errors.close()
        self.process = None


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

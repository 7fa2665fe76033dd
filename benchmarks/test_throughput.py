"""The same cases under pytest-benchmark: `pytest benchmarks --benchmark-only`, on the CPU and on a GPU.

What is timed includes the wait for the GPU, its L2 not flushed; `python -m benchmarks.roofline` times the kernels.
"""

import pytest
import torch

from maxact_kernels import ProbeState, backends

from .baselines import BASELINES
from .cases import CPU_CASES, GPU_CASES, SMALL_GPU_CASES, make

PLAIN = [case for case in GPU_CASES if (case.shape[1], case.data, case.layout) == (4096, "tokens", "contiguous")]
NO_GPU = None if torch.cuda.is_available() else "no GPU here"
WHY_NOT = {"aminmax": NO_GPU} | {row.name: row.why_not or NO_GPU for row in backends()}


def shown(case):
    return f"{case.name}-{case.dtype}-{case.shape[0]}x{case.shape[1]}"


@pytest.mark.parametrize("case", CPU_CASES, ids=shown)
def test_fused_probe(benchmark, case):
    x, _ = make(case)
    state = ProbeState(x.shape[-1], x.dtype, **case.options)
    benchmark(state.update, x)


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_user_would_use(benchmark, name):
    benchmark(BASELINES[name], make(CPU_CASES[0])[0])


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["cuda", "triton", "aminmax"])
@pytest.mark.parametrize("case", PLAIN + SMALL_GPU_CASES, ids=shown)
def test_on_the_gpu(benchmark, case, what):
    if why_not := WHY_NOT[what]:
        pytest.skip(why_not)
    x, _ = make(case, "cuda")
    call = torch.aminmax if what == "aminmax" else ProbeState(x.shape[-1], x.dtype, "cuda", backend=what, **case.options).update

    def timed():
        call(x)
        torch.cuda.synchronize()

    benchmark(timed)

"""The same cases under pytest-benchmark: `pytest benchmarks --benchmark-only`."""

import pytest

from maxact_kernels import ProbeState

from .baselines import BASELINES
from .cases import CPU_CASES, make


@pytest.mark.parametrize("case", CPU_CASES, ids=lambda c: f"{c.name}-{c.dtype}-{c.shape[0]}x{c.shape[1]}")
def test_fused_probe(benchmark, case):
    x, _ = make(case)
    state = ProbeState(x.shape[-1], x.dtype, **case.options)
    benchmark(state.update, x)


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_user_would_use(benchmark, name):
    benchmark(BASELINES[name], make(CPU_CASES[0])[0])

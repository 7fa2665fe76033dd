"""Time fused_probe beside what it replaces, on the CPU: `python -m benchmarks.throughput`.

Every case is first checked against the reference backend, then timed: median of at least 7 runs after 2 to warm up.
Writes benchmarks/results/cpu.csv.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from maxact_kernels import ProbeState, fused_probe
from maxact_kernels.fields import INT8_SUMS, fields

from .baselines import BASELINES, calibrators
from .cases import CPU_CASES, Case, make

RESULTS = Path(__file__).parent / "results"


def median_seconds(call: Callable[[], object], at_least: int = 7, seconds: float = 1.0) -> float:
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < at_least or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def verify(case: Case, x: torch.Tensor, backend: str, mask: torch.Tensor | None = None) -> None:
    """Everything exact equals the reference bit for bit; raises AssertionError with the field otherwise."""
    ours, oracle = (fused_probe(x, mask=mask, backend=name, **case.options) for name in (backend, "reference"))
    for field in fields(ours.options):
        if field.name != "sum" and field.name not in INT8_SUMS:  # floats of another order of addition
            mine, theirs = ours.fields[field.name], oracle.fields[field.name]
            assert mine.reshape(-1).view(torch.uint8).equal(theirs.reshape(-1).view(torch.uint8)), (case, field.name)


def main() -> None:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "cpu")
    rows = []

    def record(case: Case, what: str, seconds: float) -> None:
        n_bytes = case.shape[0] * case.shape[1] * case.dtype.itemsize
        rows.append(
            {
                "device": cpu,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "case": case.name,
                "dtype": str(case.dtype).removeprefix("torch."),
                "n_tokens": case.shape[0],
                "d": case.shape[1],
                "what": what,
                "time_us": round(seconds * 1e6, 1),
                "gbps": round(n_bytes / seconds / 1e9, 3),
            }
        )
        print(" ".join(str(v) for v in list(rows[-1].values())[3:]), flush=True)

    for case in CPU_CASES:
        x, _ = make(case)
        verify(case, x, "cpu")
        state = ProbeState(x.shape[-1], x.dtype, backend="cpu", **case.options)
        record(case, "fused_probe, cpu backend", median_seconds(lambda: state.update(x)))
        if case == CPU_CASES[0]:
            for name, baseline in (BASELINES | calibrators()).items():
                record(case, name, median_seconds(lambda: baseline(x)))
            reference = ProbeState(x.shape[-1], x.dtype, backend="reference", **case.options)
            record(case, "fused_probe, reference backend", median_seconds(lambda: reference.update(x), at_least=3))
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "cpu.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

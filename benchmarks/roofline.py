"""The GPU backends against what the card can read: `python -m benchmarks.roofline [--quick]`.

Each case is verified against the reference backend on a tensor of its width, dtype and data, then timed: CUDA events,
cold L2, median of 15 runs that a state takes one after the other, the read-only ceiling in the same run. Writes
benchmarks/results/roofline-DEVICE.csv and .svg.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch

from maxact_kernels import ProbeState, _cuda

from .baselines import BASELINES, calibrators
from .cases import GPU_CASES, SMALL_GPU_CASES, TRITON_CASES, Case, bytes_that_count, make
from .throughput import verify

RESULTS = Path(__file__).parent / "results"


def gpu_seconds(call, n: int = 15) -> float:
    """Median of single runs with a cold L2: 256 MiB are written before each, more than any L2 holds."""
    flush = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(n)]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def graph_seconds(call, n: int = 50) -> float:
    """Time of one call among n in a CUDA graph: what it takes without the gaps between launches."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            call()
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / n)
    return statistics.median(times)


def host_seconds(call, n: int = 2000) -> float:
    """Host time of one call, the queue never full: the device is waited for after every hundred."""
    times = []
    for _ in range(n // 100):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(100):
            call()
        times.append((time.perf_counter() - start) / 100)
    return statistics.median(times)


def reader(x: torch.Tensor, blocks: int = 1):
    """A call that only reads x, by as many blocks a multiprocessor."""
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    n_blocks = blocks * torch.cuda.get_device_properties(0).multi_processor_count
    data, n_bytes, device = x.data_ptr(), x.nbytes, x.device.index

    def read():
        _cuda.read_only(data, n_bytes, out.data_ptr(), n_blocks, torch._C._cuda_getCurrentRawStream(device))

    return read


def ceiling_gbps(n_bytes: int = 1 << 30) -> float:
    """What the read-only kernel reaches, the best of three grids."""
    data = torch.empty(n_bytes, dtype=torch.uint8, device="cuda")
    data.random_()
    return max(n_bytes / gpu_seconds(reader(data, blocks)) / 1e9 for blocks in (4, 8, 16))


def compile_ahead(cases: list[Case]) -> None:
    """Triton takes seconds to compile for a case: side by side, in processes of their own, and kept on disk."""
    with multiprocessing.get_context("spawn").Pool(min(16, multiprocessing.cpu_count())) as pool:
        pool.map(compile_for, cases, 1)


def compile_for(case: Case) -> None:
    x = torch.zeros(1, case.shape[1], dtype=case.dtype, device="cuda")
    ProbeState(case.shape[1], case.dtype, "cuda", backend="triton", **case.options).update(x)


def smaller(case: Case) -> Case:
    """The case with few enough tokens for the reference."""
    return case._replace(shape=(min(case.shape[0], max(3, (1 << 23) // case.shape[1])), case.shape[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="without the baseline under torch.compile, which takes a minute to compile"
    )
    quick = parser.parse_args().quick

    device = torch.cuda.get_device_name()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
    compile_ahead(TRITON_CASES + SMALL_GPU_CASES)
    ceiling = ceiling_gbps()
    print(f"{device}, ceiling {ceiling:.0f} GB/s", flush=True)
    rows: list[dict] = []

    def record(case: Case, what: str, seconds: float, n_bytes: int, host_s: float | None = None) -> None:
        gbps = n_bytes / seconds / 1e9
        rows.append(
            {
                "device": device,
                "driver": driver,
                "torch": torch.__version__,
                "commit": commit,
                "case": case.name,
                "dtype": str(case.dtype).removeprefix("torch."),
                "n_tokens": case.shape[0],
                "d": case.shape[1],
                "data": case.data,
                "layout": case.layout,
                "what": what,
                "time_us": round(seconds * 1e6, 2),
                "gbps": round(gbps, 1),
                "share_of_ceiling": round(gbps / ceiling, 4),
                "target": "" if case.target is None or not what.startswith("fused_probe") else case.target,
                "host_us": "" if host_s is None else round(host_s * 1e6, 2),
            }
        )
        print(" ".join(str(v) for v in list(rows[-1].values())[4:]), flush=True)

    record(Case("ceiling", (1 << 17, 4096)), "read-only kernel", (1 << 30) / ceiling / 1e9, 1 << 30)
    for case in GPU_CASES:
        x, mask = make(smaller(case), "cuda")
        verify(case, x, "cuda", mask)
        x, mask = make(case, "cuda")
        n_bytes = bytes_that_count(case, mask)
        state = ProbeState(x.shape[-1], x.dtype, "cuda", backend="cuda", **case.options)
        record(case, "fused_probe", gpu_seconds(lambda: state.update(x, mask)), n_bytes)
        if case == GPU_CASES[0]:
            record(case, "aminmax", gpu_seconds(lambda: BASELINES["aminmax"](x)), n_bytes)
            baselines(case, record, compiled=not quick)
    for case in TRITON_CASES:
        verify(case, make(smaller(case), "cuda")[0], "triton")
        x, _ = make(case, "cuda")
        state = ProbeState(x.shape[-1], x.dtype, "cuda", backend="triton", **case.options)
        record(case, "fused_probe, triton", gpu_seconds(lambda: state.update(x)), bytes_that_count(case, None))
    for case in SMALL_GPU_CASES:
        x, _ = make(case, "cuda")
        n_bytes = bytes_that_count(case, None)
        # What launching takes a host: a kernel of four arguments, and what PyTorch makes of it.
        record(case, "read-only kernel", graph_seconds(reader(x)), n_bytes, host_seconds(reader(x)))
        record(case, "aminmax", graph_seconds(lambda: BASELINES["aminmax"](x)), n_bytes, host_seconds(lambda: BASELINES["aminmax"](x)))
        for backend, what in (("cuda", "fused_probe"), ("triton", "fused_probe, triton")):
            verify(case, x, backend)
            state = ProbeState(x.shape[-1], x.dtype, "cuda", backend=backend, **case.options)
            host = host_seconds(lambda: state.update(x))
            record(case, what, graph_seconds(lambda: state.update(x)), n_bytes, host)

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"roofline-{re.sub(r'[^a-z0-9]+', '-', device.lower().removeprefix('nvidia ')).strip('-')}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".svg").write_text(picture(rows, device, ceiling))


def baselines(case: Case, record, compiled: bool) -> None:
    """What a user would use today, on a tensor that its temporaries leave room for."""
    case = case._replace(shape=(case.shape[0] // 4, case.shape[1]), target=None)
    x, _ = make(case, "cuda")
    n_bytes = bytes_that_count(case, None)
    for name, baseline in (BASELINES | calibrators()).items():
        if name != "aminmax":
            record(case, name, gpu_seconds(lambda: baseline(x), 5), n_bytes)
    if compiled:
        function = torch.compile(BASELINES["eager, all statistics"])
        record(case, "eager, all statistics, under torch.compile", gpu_seconds(lambda: function(x), 3), n_bytes)


def picture(rows: list[dict], device: str, ceiling: float) -> str:
    """Bars: share of the read ceiling, a tick at each target."""
    bars = [row for row in rows if row["what"] == "fused_probe" and row["target"] != ""]
    height, left, width = 18 * len(bars) + 50, 430, 400
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="20" font-size="14">{device}: share of the read '
        f"ceiling, {ceiling:.0f} GB/s</text>",
    ]
    for i, row in enumerate(bars):
        y, share = 36 + 18 * i, row["share_of_ceiling"]
        label = f"{row['case']}, {row['dtype']} d={row['d']}"
        label += f", {row['data']}" * (row["data"] != "tokens") + f", {row['layout']}" * (row["layout"] != "contiguous")
        color = "#2b7bba" if share >= row["target"] else "#d08a2e"
        x = left + width * row["target"]
        parts.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{label}</text>'
            f'<rect x="{left}" y="{y}" width="{width * min(share, 1.1):.1f}" height="13" fill="{color}"/>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1}" y2="{y + 14}" stroke="#000"/>'
            f'<text x="{left + width * min(share, 1.1) + 4:.1f}" y="{y + 11}">{share:.1%}</text>'
        )
    return "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    main()

"""No thread of the CUDA kernels reads what another may not have left yet, or writes what another may still read.

The kernels run on a CPU, where ThreadSanitizer takes each thread of a block for a thread of its own and knows what orders
memory between them (cuda_races_on_cpu.h).
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from cuda_on_cpu import ROOT, Worker, build, hazards
from probes import EVERYTHING, noise

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="no g++, or no ucontext.h as glibc has it"
)

# One of each kind of what keeps threads of a block apart: the file, the line, and the case that shows a race without it.
# (Fences between blocks order nothing that is seen here: blocks run one after the other.)
ORDERS = {
    "lanes": ("cuda_facts.cuh", "  __syncwarp();\n  const float* const sums", "rows side by side"),
    "lanes that copy": ("cuda_narrow.cuh", "    __syncwarp();  // pieces that", "a row a lane"),
    "lanes that copy more": ("cuda_narrow.cuh", "    __syncwarp();  // every lane has taken", "many tiles a warp"),
    "warps": ("cuda_kernel.cuh", "  __syncthreads();\n  flush_peaks", "rows side by side"),
    "a block that is done": ("cuda_end.cuh", "  __syncthreads();\n  if (threadIdx.x == 0) c.waiting", "one row a tile"),
    "a team": ("cuda_team.cuh", "    meet();\n    int all = 0", "teams"),
    "the engine": ("cuda_rows.cuh", "    __syncwarp();  // every lane has taken", "one row a tile"),
    "holders of the lock": ("cuda_warp.cuh", "  __threadfence_block();\n  __syncwarp();\n  if", "one row a tile"),
    "those who ask for it": ("cuda_warp.cuh", "  __syncwarp();\n  __threadfence_block();\n}", "one row a tile"),
}


def mask(n: int) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.8


B16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
FEW = {"counts": False, "medians": False, "topk": 7}
IDS = torch.arange(96) % 7 << 32 | torch.arange(96) % 50
RISING = torch.linspace(1e-3, 1e3, 96 * 512).view(96, 512).to(B16)
# Updates (x, mask, token_ids), options, and blocks if not two: each manner of holding rows and each way through the end of a block.
CASES = {
    "a row a lane": ([(hazards(100, 64, B16), None, None)], {}),
    "a row a lane, masked": ([(hazards(100, 120, F16), mask(100), None)], {}),
    "a row a lane, float32": ([(hazards(100, 120, F32), mask(100), None)], {}),
    "rows side by side": ([(hazards(40, 576, B16), None, None)], {}),
    "rows side by side, masked": ([(hazards(40, 64, B16), mask(40), None)], EVERYTHING),
    "few statistics": ([(hazards(40, 64, B16), None, None)], FEW),
    "several rows a tile": ([(hazards(40, 1024, F16), mask(40), None)], {}),
    "one row a tile": ([(hazards(40, 4096, B16), None, None)], {}),
    "teams": ([(hazards(24, 8192, B16), None, None)], {}),
    "teams, everything": ([(hazards(24, 8192, B16), mask(24), None)], EVERYTHING),
    "teams, float32": ([(hazards(24, 8192, F32), None, None)], {}),
    "teams, float32, few statistics": ([(hazards(24, 8192, F32), None, None)], FEW),
    "float32": ([(hazards(70, 576, F32), mask(70), None)], EVERYTHING),
    "no tile": ([(hazards(24, 50000, B16), mask(24), None)], {}),
    "many of the largest": ([(torch.full((96, 512), 7, dtype=B16), None, None)], {"topk": 100}),
    "more entries than are sorted at once": ([(noise(40, 4096), None, None)], {"topk": 1024}, 5),
    "many tiles a warp": ([(noise(5200, 64), None, None)], {}, 1),
    "many rows a team": ([(noise(140, 5760), None, None)], {}, 1),
    "a stream that rises": ([(RISING, None, None)], {"topk": 1024}),
    "a stream that falls": ([(noise(96, 256), mask(96), None), (noise(96, 256) * 1e-3, None, None)], {"topk": 7}),
    "ties, named": ([(noise(96, 256).round(), mask(96), IDS)], {"topk": 20, "n_samples": 5}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    library = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("g++ has no ThreadSanitizer here")
    options = "halt_on_error=1 ignore_noninstrumented_modules=1 suppress_equal_addresses=0 history_size=7"
    environment = {"LD_PRELOAD": library, "TSAN_OPTIONS": options, "OMP_NUM_THREADS": "1"}

    def starts(command: tuple) -> bool:
        done = subprocess.run([*command, sys.executable, "-c", ""], env={**os.environ, **environment}, capture_output=True)
        return done.returncode == 0

    # Without random addresses, where that is allowed: some kernels spread them further than ThreadSanitizer bears.
    commands = [command for command in (("setarch", "-R"), ()) if not command or shutil.which(command[0])]
    command = next(filter(starts, commands), None)
    if command is None:
        pytest.skip("ThreadSanitizer does not start here")

    folder = tmp_path_factory.mktemp("cuda_races")
    sources = folder / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    for name, (file, lines, _) in ORDERS.items():
        text = (sources / file).read_text()
        assert text.count(lines) == 1, name
        (sources / file).write_text(text.replace(lines, f'  if (!getenv("WITHOUT {name}")) {lines.lstrip()}'))
    worker = Worker(build(folder, "-fsanitize=thread", "-g1", sources=sources), command, environment)
    yield worker
    worker.close()


def update(run, case: str, **environment):
    calls, options, n_blocks = (*CASES[case], 2)[:3]
    run(*calls, environment={"N_MULTIPROCESSORS": str(n_blocks), **environment}, **options)


@pytest.mark.parametrize("case", CASES)
def test_threads_order_what_they_share(run, case):
    update(run, case)
    update(run, case, REVERSED="1")


@pytest.mark.parametrize("name", ORDERS)
def test_a_missing_order_is_found(run, name):
    with pytest.raises(pytest.fail.Exception, match="ThreadSanitizer: data race"):
        update(run, ORDERS[name][2], **{f"WITHOUT {name}": "1"})

"""compute-sanitizer finds nothing in the CUDA kernels: no access out of bounds, no read of what nobody wrote, no wrong barrier, and
no race where it can tell. It knows neither locks nor barriers of some warps: for those see test_cuda_races.py.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from probes import noise

from maxact_kernels import ProbeState

WIDTHS = (64, 576, 1024, 2048, 4096, 12288)  # each manner of holding rows: a lane each, side by side, alone, by a team
OPTIONS = ({}, {"int8_per_token": True, "n_samples": 3}, {"counts": False, "medians": False, "topk": 7})


def update_each(alone: bool) -> None:
    """The subset: two updates of each width, dtype and set of options, with a mask and without. alone: one warp of a block has rows,
    and has them to itself, so that warps meet at the end of a block only."""
    n = 100 if alone else 150
    for d in WIDTHS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if alone and d * dtype.itemsize > 8192:
                continue
            x = noise(n, d, dtype=dtype).cuda()
            for options in OPTIONS:
                state = ProbeState(d, dtype, "cuda", backend="cuda", **options)
                state.update(x)
                state.update(x, torch.arange(n, device="cuda") % 3 > 0)
                state.summary()


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer here")
@pytest.mark.parametrize(
    "tool",
    ["memcheck", "initcheck", "synccheck --num-cuda-barriers 8192", "racecheck"],
    ids=lambda tool: tool.split()[0],
)
def test_a_sanitizer_finds_nothing(tool):
    alone = ["alone"] if tool == "racecheck" else []
    command = ["compute-sanitizer", "--error-exitcode", "9", "--tool", *tool.split(), sys.executable, __file__, *alone]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and re.search(r"SUMMARY: 0 (errors|hazards)", done.stdout), (
        done.stdout[-3000:] + done.stderr[-3000:]
    )


if __name__ == "__main__":
    update_each(alone=len(sys.argv) > 1)

"""compute-sanitizer finds nothing in the CUDA kernels: no access out of bounds, no read of what nobody wrote.

What its synccheck and racecheck say is in benchmarks/cuda_notes.md; for races see test_cuda_races.py.
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from probes import noise

from maxact_kernels import ProbeState

WIDTHS = (64, 576, 1024, 2048, 4096, 12288)  # each manner of holding rows: side by side, alone, by a team
OPTIONS = ({}, {"int8_per_token": True, "n_samples": 3}, {"counts": False, "medians": False, "topk": 7})


def update_each() -> None:
    """The subset: two updates of each width, dtype and set of options, with a mask and without."""
    for d in WIDTHS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            x = noise(150, d, dtype=dtype).cuda()
            for options in OPTIONS:
                state = ProbeState(d, dtype, "cuda", backend="cuda", **options)
                state.update(x)
                state.update(x, torch.arange(150, device="cuda") % 3 > 0)
                state.summary()


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer here")
@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_a_sanitizer_finds_nothing(tool):
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, __file__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "ERROR SUMMARY: 0 errors" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


if __name__ == "__main__":
    update_each()

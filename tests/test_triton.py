"""The Triton kernels on a CPU, by Triton's interpreter: hazards and laws of the shared suite, few examples of each."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

# Each program takes the interpreter a millisecond or more: what the other kernels do in seconds, these do in minutes.
FILES = ("test_mask.py", "test_nonfinite.py")
HAZARDS = """
import torch
from maxact_kernels import ProbeState
from probes import EVERYTHING, assert_agrees, noise

LEAN = {"counts": False, "medians": False, "topk": 7}
CASES = [  # width, dtype, options, masked, named: rows side by side, of an odd width, of one and of several programs
    (64, torch.bfloat16, EVERYTHING, True, True),
    (300, torch.float16, LEAN, False, False),
    (1024, torch.bfloat16, LEAN, True, False),
    (130, torch.float32, EVERYTHING, False, True),
    (128, torch.bfloat16, {"counts": False}, False, False),
    (601, torch.bfloat16, LEAN | {"int8_per_token": True}, False, False),
    (18440, torch.float32, LEAN, False, False),  # too wide for registers, rows of whole 16 bytes
]
for d, dtype, options, masked, named in CASES:
    x = noise(40, d, dtype=dtype)
    x[3], x[14], x[19], x[23] = 0, x[14] * 1e-30, x[19].abs(), x[23].relu()
    x[5, d // 2], x[7, -1], x[11] = float("nan"), float("-inf"), float("inf")
    x[13, 0] = 60000 if dtype is torch.float16 else 1e30
    x[17] = 1 + torch.rand(d) * 2.0**-8
    x[21] = 0 if dtype is torch.float16 else 2.0**59
    mask = torch.rand(40, generator=torch.Generator().manual_seed(d)) < 0.8 if masked else None
    ids = (torch.arange(40) % 3 << 32 | torch.arange(40) // 5).flip(0) if named else None
    states = [ProbeState(d, dtype, backend=backend, **options) for backend in ("triton", "reference")]
    for n in (40, 20):  # twice: what an update leaves behind matters
        for state in states:
            state.update(x[:n], None if mask is None else mask[:n], None if ids is None else ids[:n])
    both = torch.cat((x, x[:20]))
    assert_agrees(*states, both if mask is None else both[torch.cat((mask, mask[:20]))])
"""


def interpreted(*command: str) -> None:
    folder = Path(__file__).parent
    paths = os.pathsep.join((str(folder), str(folder.parent)))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}  # read where a kernel is decorated
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_rows_that_leave_the_fast_way_and_what_an_update_leaves_behind():
    interpreted("-c", HAZARDS)


@pytest.mark.parametrize("file", FILES)
def test_the_laws_that_every_backend_keeps(file):
    interpreted("-m", "pytest", "-q", "-x", "-k", "triton", file)

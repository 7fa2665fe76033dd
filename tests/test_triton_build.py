"""Every Triton kernel compiles without a GPU for each kind of GPU, within its registers and its shared memory."""

import os
import re
import subprocess

import pytest

triton = pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from maxact_kernels.fields import Options  # noqa: E402
from maxact_kernels.triton_launch import kernels  # noqa: E402

LEAN = {"counts": False, "medians": False}
INT8 = LEAN | {"int8_per_token": True}
EVERYTHING = {"topk": 7, "n_samples": 3, "int8_per_token": True}
CASES = [  # ptxas takes 1 to 10 s for one: the tables' rows at widths that models have, each option class
    (64, "bfloat16", LEAN),
    (128, "bfloat16", {}),
    (1024, "bfloat16", LEAN),
    (4096, "bfloat16", LEAN),
    (4096, "bfloat16", INT8),
    (5120, "bfloat16", INT8),
    (5119, "bfloat16", INT8),  # rows that are not aligned
    (4095, "bfloat16", LEAN),
    (4095, "float16", {"counts": False}),
    (4096, "bfloat16", {"counts": False}),
    (4096, "bfloat16", {}),
    (5120, "bfloat16", LEAN),
    (18944, "bfloat16", LEAN),
    (36864, "bfloat16", {}),
    (257, "float16", EVERYTHING),
    (1024, "float32", LEAN),
]


def compiled(d, dtype, options, target, arch, **how):
    how = {"aligned": d % 8 == 0, "masked": False, "named": False} | how
    return {name: kernel.compile(target) for name, kernel in kernels(Options(d, dtype, **options), arch, **how).items()}


def resources(kernel, folder) -> tuple[int, int]:
    """(bytes of stack, bytes of shared memory) of a kernel for NVIDIA."""
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    command = [tool, "--dump-resource-usage", folder / "kernel.cubin"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack, shared = map(int, re.search(r"STACK:(\d+) SHARED:(\d+)", listing).groups())
    return stack, shared + kernel.metadata.shared


@pytest.mark.parametrize("d, dtype, options", CASES, ids=str)
def test_no_kernel_spills_or_wants_more_shared_memory_than_a_launch_has_unasked(d, dtype, options, tmp_path):
    for name, kernel in compiled(d, dtype, options, GPUTarget("cuda", 90, 32), 90).items():
        stack, shared = resources(kernel, tmp_path)
        assert stack == 0, (name, stack)
        assert shared <= 49152 + 1024, (name, shared)  # 1 KiB of what is listed is the system's


@pytest.mark.parametrize("target, arch", [
    (GPUTarget("cuda", 80, 32), 80), (GPUTarget("cuda", 100, 32), 100), (GPUTarget("cuda", 120, 32), 120),
    (GPUTarget("hip", "gfx942", 64), 0)], ids=str)  # fmt: skip
def test_every_kernel_compiles_for_other_gpus(target, arch):
    compiled(64, "bfloat16", EVERYTHING, target, arch, masked=True, named=True)
    compiled(1024, "bfloat16", LEAN, target, arch)
    compiled(4096, "bfloat16", INT8, target, arch)

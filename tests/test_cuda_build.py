"""The CUDA module builds where nvcc is, without a GPU, and its kernels stay within their registers."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from test_build import build, copy_sources

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The compiled module in an unpacked wheel; for one target, since each takes a minute and a half on two cores."""
    folder = tmp_path_factory.mktemp("cuda")
    done, wheel = build(copy_sources(folder), folder, MAXACT_BUILD_CUDA="1", MAXACT_CUDA_TARGETS="90")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "maxact_kernels._cuda was built" in done.stdout + done.stderr
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return next((folder / "site" / "maxact_kernels").glob("_cuda.*.so"))


def test_it_imports_without_a_gpu_or_driver_and_says_what_is_missing(module):
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in f.__module__]\n"
        "from maxact_kernels import cuda; print(cuda.unavailable())"
    )
    environment = os.environ | {"PYTHONPATH": str(module.parent.parent), "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=module.parent.parent,
        env=environment,
        check=True,
    )
    assert answer.stdout.startswith("the cuda backend finds no ")


def test_it_links_nothing_of_cuda_or_pytorch(module):
    linked = subprocess.run(["ldd", module], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in linked and not re.search(r"cuda|torch|c10", linked.replace(str(module), ""))


def test_no_kernel_spills(module):
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    listing = subprocess.run([tool, "--dump-resource-usage", module], capture_output=True, text=True, check=True).stdout
    stacks = re.findall(r"Function \S*probe_kernelINS_\d+[A-Za-z]+\d*ELi(\d+)E\S*:\s+REG:\d+ STACK:(\d+)", listing)
    narrow = re.findall(r"Function \S*narrow_kernel\S*:\s+REG:\d+ STACK:(\d+)", listing)
    assert len(stacks) == 56 and len(narrow) == 11  # csrc/cuda_kernels.cuh
    # Local memory holds the features' maxima of a lane between rounds, 16 bytes for each of its pieces of a row, and what
    # slow_row() returns; what spills would come on top.
    assert [(pieces, stack) for pieces, stack in stacks if int(stack) != 16 * int(pieces) + 16] == []
    assert narrow == ["8"] * 11

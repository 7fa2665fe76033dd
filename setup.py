"""Builds the compiled backends, or says in one sentence why not. Imports no PyTorch: pointers cross as integers.

MAXACT_BUILD_CPU and MAXACT_BUILD_CUDA: 0 leaves a backend out, 1 makes its absence an error; by default what the tools
found here allow is built. MAXACT_CUDA_TARGETS: GPUs to compile for, "80 90 100 120" by default, "native" for those here.
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

HINTS = {
    "_cpu": "for the C++ one install a C++17 compiler (Debian: g++)",
    "_cuda": "for the CUDA one install the CUDA toolkit (nvcc 12.8 or later) and a C++17 compiler",
}


def wanted(variable):
    """None: build if possible. False: never. True: or fail."""
    choice = os.environ.get(variable, "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"{variable}: {choice!r}, expected 0 (never), 1 (or fail) or nothing (if possible)")
    return {"": None, "0": False, "1": True}[choice]


def say(sentence):
    print(f"maxact: {sentence}", file=sys.stderr, flush=True)


def cuda_targets():
    """The GPUs to make machine code for, as compute capabilities without the dot: A100, H100, B200 and RTX 50; what lies
    between takes the code of the smaller one."""
    names = os.environ.get("MAXACT_CUDA_TARGETS", "80 90 100 120")
    if names == "native":
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.replace(".", "")
    return sorted(set(names.split()), key=int)


class CleanBuild(build):
    def run(self):
        # A module left in build/ for another Python or of older sources must not reach the wheel.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or True  # g++ and nvcc side by side

    def build_extension(self, extension):
        import pybind11

        extension.include_dirs = [pybind11.get_include()]
        short = extension.name.rpartition(".")[2]
        try:
            if short == "_cuda":
                self.compile_cuda(extension)
            super().build_extension(extension)
        except Exception as error:
            say(
                f"{extension.name} was not built ({error}). The other backends give the same results, slower; "
                f"{HINTS[short]} and install maxact again."
            )
            raise  # setuptools goes on without an optional extension
        say(f"{extension.name} was built.")

    def compile_cuda(self, extension):
        """Compile every csrc/cuda*.cu with nvcc; the objects and the static runtime are linked with the bindings."""
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        nvcc = shutil.which("nvcc", path=os.path.join(home, "bin") if home else None)
        if nvcc is None:
            raise RuntimeError("no nvcc found")
        # Asked, because nvcc may be a wrapper script that lies elsewhere than its libraries.
        plan = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
        libraries = re.findall(r'-L([^"\s]+)', next(line for line in plan.splitlines() if "LIBRARIES=" in line))
        names = cuda_targets()
        # From one PTX for both, since sm_100 has no kernels of its own: that is faster.
        targets = [f"-gencode=arch=compute_{'80' if t == '100' else t},code=sm_{t}" for t in names]
        # PTX, which the driver compiles for GPUs of the future.
        targets += ["-gencode=arch=compute_80,code=compute_80"] * ("80" in names)
        options = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", f"--threads={os.cpu_count()}"]
        # One command for all: nvcc runs as many steps at once as there are cores. Twice as many take a third longer.
        sources = sorted(glob("csrc/cuda*.cu"))
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        command = [nvcc, *targets, *options, "-c", *sources, "-odir", self.build_temp]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc could not compile csrc/cuda*.cu: {(done.stderr or done.stdout).strip()[-2000:]}")
        extension.extra_objects = [str(Path(self.build_temp) / (Path(source).stem + ".o")) for source in sources]
        extension.library_dirs = libraries
        extension.libraries = ["cudart_static", "dl", "rt", "pthread"]


def extension(name, variable, sources, depends):
    return Extension(
        f"maxact_kernels.{name}",
        sources=sources,
        depends=depends,
        language="c++",
        extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-pthread"],
        extra_link_args=["-pthread"] + (["-Wl,--strip-all"] if sys.platform == "linux" else []),
        optional=not wanted(variable),
    )


headers = sorted(glob("csrc/*.h"))
extensions = []
if wanted("MAXACT_BUILD_CPU") is False:
    say("maxact_kernels._cpu was not built: MAXACT_BUILD_CPU is 0.")
else:
    extensions.append(extension("_cpu", "MAXACT_BUILD_CPU", ["csrc/cpu.cpp", "csrc/cpu_bindings.cpp"], headers))
if wanted("MAXACT_BUILD_CUDA") is False:
    say("maxact_kernels._cuda was not built: MAXACT_BUILD_CUDA is 0.")
elif sys.platform == "linux":
    kernels = sorted(glob("csrc/cuda*.cu*"))
    extensions.append(extension("_cuda", "MAXACT_BUILD_CUDA", ["csrc/cuda_bindings.cpp"], headers + kernels))

setup(ext_modules=extensions, cmdclass={"build": CleanBuild, "build_ext": BuildExtension})

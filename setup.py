"""Builds the compiled backends, or says in one sentence why not. Imports no PyTorch: pointers cross as integers.

MAXACT_BUILD_CPU=0 leaves out the C++ backend, =1 makes its absence an error; by default what can be built is built.
"""

import os
import shutil
import sys

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext


def wanted(variable):
    """None: build if possible. False: never. True: or fail."""
    choice = os.environ.get(variable, "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"{variable}: {choice!r}, expected 0 (never), 1 (or fail) or nothing (if possible)")
    return {"": None, "0": False, "1": True}[choice]


class CleanBuild(build):
    def run(self):
        # A module left in build/ for another Python or of older sources must not reach the wheel.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    def build_extension(self, extension):
        import pybind11

        extension.include_dirs = [pybind11.get_include()]
        try:
            super().build_extension(extension)
        except Exception as error:
            say(
                f"{extension.name} was not built ({error}). The reference backend gives the same results, slower; "
                "for the C++ one install a C++17 compiler (Debian: g++) and install maxact again."
            )
            raise  # setuptools goes on without an optional extension
        say(f"{extension.name} was built.")


def say(sentence):
    print(f"maxact: {sentence}", file=sys.stderr, flush=True)


extensions = []
if wanted("MAXACT_BUILD_CPU") is False:
    say("maxact_kernels._cpu was not built: MAXACT_BUILD_CPU is 0.")
else:
    extensions.append(
        Extension(
            "maxact_kernels._cpu",
            sources=["csrc/cpu.cpp", "csrc/cpu_bindings.cpp"],
            depends=["csrc/cpu.h", "csrc/row_loops.h", "csrc/rules.h", "csrc/topk.h"],
            language="c++",
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"] + (["-Wl,--strip-all"] if sys.platform == "linux" else []),
            optional=not wanted("MAXACT_BUILD_CPU"),
        )
    )

setup(ext_modules=extensions, cmdclass={"build": CleanBuild, "build_ext": BuildExtension})

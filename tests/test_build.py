"""What `pip install` builds: fresh modules only, and a working package where there is no compiler."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parent.parent


def copy_sources(tmp_path):
    """The sources as git has them, without what building in place has left."""
    target = tmp_path / "sources"
    target.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt"):
        shutil.copy(ROOT / name, target)
    for name in ("csrc", "maxact", "maxact_kernels"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return target


@pytest.fixture
def sources(tmp_path):
    return copy_sources(tmp_path)


def build(sources, tmp_path, **environment):
    """pip's wheel of the sources, with what the build said."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-v",
            "--no-build-isolation",
            "--no-deps",
            "-w",
            tmp_path / "out",
            sources,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"MAXACT_BUILD_CUDA": "0"} | environment,  # minutes of nvcc: see test_cuda_build.py
    )
    return done, next((tmp_path / "out").glob("*.whl"), None) if done.returncode == 0 else None


def test_without_a_compiler_the_package_installs_says_so_and_works(sources, tmp_path):
    done, wheel = build(sources, tmp_path, CC="no-such-compiler", CXX="no-such-compiler")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "maxact_kernels._cpu was not built" in done.stdout + done.stderr
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in f.__module__]\n"
        "import warnings; warnings.simplefilter('always')\n"
        "import torch, maxact_kernels; print(maxact_kernels.__file__)\n"
        "from maxact_kernels import backends, fused_probe\n"
        "print([b.why_not for b in backends() if b.name == 'cpu'][0])\n"
        "print(fused_probe(torch.tensor([[1., -7.]])).summary().absmax)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    place, why_not, absmax = answer.stdout.splitlines()
    assert place.startswith(str(tmp_path)) and absmax == "7.0"
    assert "was not built: install a C++17 compiler" in why_not
    assert "Using the reference backend" in answer.stderr


def test_a_compiler_that_is_asked_for_and_missing_fails_the_build(sources, tmp_path):
    done, _ = build(sources, tmp_path, CC="no-such-compiler", CXX="no-such-compiler", MAXACT_BUILD_CPU="1")
    assert done.returncode != 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_wheel_holds_what_was_built_now_and_nothing_left_over(sources, tmp_path):
    lib = f"lib.{os.uname().sysname.lower()}-{os.uname().machine}-{sys.implementation.cache_tag}"
    for folder in (sources / "build" / lib / "maxact_kernels", sources / "maxact_kernels"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_cpu.stale.so").write_bytes(b"stale")
        (folder / "_cuda.stale.so").write_bytes(b"stale")
    (sources / "build" / lib / "maxact_kernels" / "gone.py").write_text("stale = True")
    done, wheel = build(sources, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "maxact_kernels._cpu was built" in done.stdout + done.stderr
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if "stale" in name or name.endswith("gone.py")]
    assert [name for name in names if name.startswith("maxact_kernels/_cpu.") and name.endswith(".so")]
    assert {"maxact/corpus.jsonl", "maxact/published.csv", "maxact/recipe_paper.toml"} <= set(names)


def test_building_imports_no_pytorch():
    source = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text().split("[project]")[0]
    assert "import torch" not in source and '"torch' not in source


@pytest.mark.parametrize(
    ("named", "targets"),
    [(None, ["80", "90", "100", "120"]), ("100 80", ["80", "100"]), ("native", ["86", "120"])],
)
def test_the_cuda_module_is_compiled_for_all_gpus_or_those_that_are_named_or_here(named, targets, tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 8.6\necho 12.0\necho 8.6\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("MAXACT_CUDA_TARGETS", raising=False)
    if named:
        monkeypatch.setenv("MAXACT_CUDA_TARGETS", named)
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    assert runpy.run_path("setup.py")["cuda_targets"]() == targets

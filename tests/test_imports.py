"""Imports run one way: maxact, maxact_kernels, compiled modules; what only reads results does without PyTorch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import maxact_kernels

ROOT = Path(maxact_kernels.__file__).parent.parent
KERNELS = sorted((ROOT / "maxact_kernels").glob("*.py"))
MODULES = [*KERNELS, *sorted((ROOT / "maxact").glob("**/*.py"))]
NO_TORCH = ["fields", "merge_arrays", "quantization", "storage", "summary"]


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, by its absolute name, and each name taken from one."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_the_walk_sees_imports_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "maxact_kernels").mkdir()
    file = tmp_path / "maxact_kernels" / "example.py"
    file.write_text(
        "import torch.nn as nn\nfrom . import fields\nfrom .state import x\nif 1:\n    from maxact import run\n"
    )
    assert imported(file) >= {"torch.nn", "maxact_kernels.fields", "maxact_kernels.state", "maxact", "maxact.run"}


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_maxact_kernels_imports_nothing_from_above(path):
    assert not tops(path) & {"maxact", "transformers", "tests", "benchmarks"}


def test_nothing_but_its_backend_imports_a_compiled_module():
    for path in MODULES:
        for name in imported(path):
            compiled = re.fullmatch(r"maxact_kernels\._(\w+)", name)
            assert not compiled or (path.parent.name, path.stem) == ("maxact_kernels", compiled[1]), (path, name)


@pytest.mark.parametrize("module", NO_TORCH)
def test_reading_results_imports_no_torch(module):
    code = f"import sys, maxact_kernels, maxact_kernels.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
    assert "torch" not in tops(ROOT / "maxact_kernels" / f"{module}.py")


def test_importing_maxact_kernels_has_no_side_effect():
    code = "import sys; before = set(sys.modules); import maxact_kernels; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "['maxact_kernels']"


def test_the_package_gives_its_three_names_and_no_other():
    assert sorted(maxact_kernels.__all__) == ["ProbeState", "backends", "fused_probe"]
    for name in maxact_kernels.__all__:
        assert getattr(maxact_kernels, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'maxact_kernels' has no attribute 'fused_prob'"):
        _ = maxact_kernels.fused_prob


def test_csrc_knows_no_pytorch():
    sources = [path for path in (ROOT / "csrc").iterdir() if path.is_file()]
    include = re.compile(r'#\s*include\s*[<"]([^>"]+)')
    included = [(path.name, name) for path in sources for name in include.findall(path.read_text())]
    assert len(included) > 10
    assert not [pair for pair in included if re.match(r"(torch|ATen|c10|caffe2|THC?)\b", pair[1])]
    assert not [path.name for path in sources if re.search(r"\b(at|c10|torch)::", path.read_text())]


def test_only_the_bindings_know_python():
    for path in (ROOT / "csrc").iterdir():
        knows = re.search(r'#\s*include\s*[<"](pybind11|Python\.h|bindings\.h)', path.read_text()) is not None
        assert knows == ("bindings" in path.name), path.name

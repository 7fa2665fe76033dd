"""Which backend runs, who chooses it, and how it says that it cannot."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from probes import every_backend, noise

import maxact_kernels
from maxact_kernels import ProbeState, backends, dispatch, fused_probe

PACKAGE = Path(maxact_kernels.__file__).parent
PROBE_TWICE = """
import sys  # an editable installation would find the compiled module in the sources
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in finder.__module__]
import torch, warnings
from maxact_kernels import backends, fused_probe
row = next(row for row in backends() if row.name == "cpu")
print(row.available, "|", row.why_not)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for x in (torch.ones(2, 3), torch.ones(2, 4).half()):
        print(fused_probe(x).backend.NAME, fused_probe(x).summary().n_tokens)
for warning in caught:
    print(warning.category.__name__, "|", warning.message)
try:
    fused_probe(x, backend="cpu")
except ValueError as error:
    print(error)
"""


@pytest.fixture
def fresh_choice(monkeypatch):
    """No choice is remembered, before and after."""
    monkeypatch.delenv("MAXACT_BACKEND", raising=False)
    dispatch._choose.cache_clear()
    yield monkeypatch
    dispatch._choose.cache_clear()


def run_without_cpu(directory: Path, module: bytes | None) -> list[str]:
    """The lines that PROBE_TWICE prints where the compiled module is missing, or is `module`."""
    shutil.copytree(PACKAGE, directory / "maxact_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if module is not None:
        (directory / "maxact_kernels" / "_cpu.abi3.so").write_bytes(module)
    done = subprocess.run([sys.executable, "-c", PROBE_TWICE], cwd=directory, env={"PYTHONPATH": str(directory)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.splitlines()


NOT_BUILT = "the cpu backend was not built: install a C++17 compiler (Debian: g++) and install maxact again"


def test_without_the_compiled_module_the_reference_runs_and_says_so_once(tmp_path):
    row, first, second, warning, *rest = run_without_cpu(tmp_path, None)
    assert row == f"False | {NOT_BUILT}"
    assert first == second == "reference 2"
    assert warning.startswith("UserWarning | maxact: ") and NOT_BUILT in warning and "reference backend" in warning
    assert rest == [f"backend: 'cpu' cannot be used: {NOT_BUILT}"]


def test_a_compiled_module_that_does_not_load_gives_its_own_reason(tmp_path):
    row, first, second, warning, *rest = run_without_cpu(tmp_path, b"not a library")
    assert row.startswith("False | the cpu backend cannot be loaded (") and "not built" not in row
    assert first == second == "reference 2"
    assert "cannot be loaded" in warning and len(rest) == 1 and "cannot be loaded" in rest[0]


def test_backends_are_listed_in_order_of_preference():
    rows = backends()
    assert [row.name for row in rows] == list(dispatch.PREFERENCE) and rows[-1].name == "reference"
    for row in rows:
        assert row.available == (row.why_not is None)
    assert rows[-1] == ("reference", True, None, None)


@every_backend
def test_the_backend_asked_for_is_the_one_that_runs(place, monkeypatch):
    ran = []
    module = dispatch._module(place.backend)
    update = module.update
    monkeypatch.setattr(module, "update", lambda *args: (ran.append(place.backend), update(*args)))
    state = fused_probe(noise(2, 8).to(place.device), backend=place.backend)
    assert state.backend is module and ran == [place.backend] and state.summary().n_tokens == 2


@every_backend
def test_the_environment_sets_the_default(place, fresh_choice):
    fresh_choice.setenv("MAXACT_BACKEND", place.backend)
    assert ProbeState(4, torch.float32, place.device).backend.NAME == place.backend
    assert fused_probe(noise(2, 8).to(place.device)).backend.NAME == place.backend


@every_backend
def test_an_argument_beats_the_environment(place, fresh_choice):
    fresh_choice.setenv("MAXACT_BACKEND", "no such backend")
    assert ProbeState(4, torch.float32, place.device, backend=place.backend).backend.NAME == place.backend


@pytest.mark.skipif(dispatch._module("cpu").unavailable() is not None, reason="the cpu backend was not built")
def test_an_empty_environment_variable_chooses_nothing(fresh_choice):
    default = dispatch.choose("cpu", None)
    fresh_choice.setenv("MAXACT_BACKEND", "")
    assert dispatch.choose("cpu", None) is default and default.NAME == "cpu"


def test_a_name_that_is_no_backend_is_refused_with_those_that_are(fresh_choice):
    for ask, argument in ((lambda: ProbeState(4, torch.float32, backend="cpp"), "backend"),
                          (lambda: ProbeState(4, torch.float32), "MAXACT_BACKEND")):  # fmt: skip
        fresh_choice.setenv("MAXACT_BACKEND", "cpp")
        with pytest.raises(ValueError) as raised:
            ask()
        assert str(raised.value) == f"{argument}: 'cpp', expected one of {', '.join(dispatch.PREFERENCE)}"


def test_a_backend_that_cannot_take_the_device_says_which_it_takes(fresh_choice):
    with pytest.raises(ValueError, match="backend: 'cpu' cannot be used: cpu runs on cpu tensors, this one is on meta"):
        dispatch.choose("meta", "cpu")
    fresh_choice.setenv("MAXACT_BACKEND", "cpu")
    with pytest.raises(ValueError, match="MAXACT_BACKEND: 'cpu' cannot be used: cpu runs on cpu tensors"):
        dispatch.choose("meta", None)


def test_a_device_that_only_the_reference_takes_is_named_in_the_warning(fresh_choice):
    with pytest.warns(UserWarning, match="cpu runs on cpu tensors, this one is on meta.*Using the reference"):
        assert dispatch.choose("meta", None).NAME == "reference"


def test_asking_for_the_reference_warns_of_nothing(fresh_choice, recwarn):
    assert dispatch.choose("cpu", "reference").NAME == "reference" and not recwarn.list


def test_a_refusal_is_not_remembered(fresh_choice):
    module = dispatch._module("cpu")
    fresh_choice.setattr(module, "unavailable", lambda: "the moon is wrong")
    with pytest.raises(ValueError, match="backend: 'cpu' cannot be used: the moon is wrong"):
        dispatch.choose("cpu", "cpu")
    assert [row.why_not for row in backends() if row.name == "cpu"] == ["the moon is wrong"]
    fresh_choice.setattr(module, "unavailable", lambda: None)
    assert dispatch.choose("cpu", "cpu") is module


def test_fields_of_python_and_of_the_compiled_module_must_be_the_same():
    _cpu = pytest.importorskip("maxact_kernels._cpu")
    state = ProbeState(4, torch.float32, backend="reference")
    addresses = {name: field.data_ptr() for name, field in state.fields.items()}
    _cpu.CpuProbe(addresses, "float32", 4, 100, 100.0, 1000.0, 0)
    with pytest.raises(ValueError, match="fields.py and rules.h name different fields"):
        _cpu.CpuProbe({**addresses, "newer": 0}, "float32", 4, 100, 100.0, 1000.0, 0)
    with pytest.raises(ValueError, match="dtype: float64"):
        _cpu.CpuProbe(addresses, "float64", 4, 100, 100.0, 1000.0, 0)

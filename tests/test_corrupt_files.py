"""A file that is not a whole state is a ValueError that names it and says what is wrong."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probes import EVERYTHING, REFERENCE, noise

from maxact_kernels import ProbeState, storage


@pytest.fixture
def path(tmp_path):
    """A good state, to be spoilt."""
    REFERENCE.probe(noise(5, 16), **EVERYTHING).save(tmp_path / "a state")
    return tmp_path / "a state"


def assert_refused(path, text: str | None = None) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        ProbeState.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def rewrite(path, change) -> None:
    """Change the arrays and metadata of the file by `change(arrays, metadata)`."""
    arrays, metadata = storage.read_safetensors(path)
    change(arrays, metadata)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


def test_a_file_written_back_unchanged_is_accepted(path):
    rewrite(path, lambda arrays, metadata: None)
    assert ProbeState.load(path).summary().n_tokens == 5


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 1000, -1, -100])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path, "not a readable safetensors file")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path, content):
    (tmp_path / "noise").write_bytes(content)
    assert_refused(tmp_path / "noise")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_in_the_header_is_refused_or_harmless(tmp_path, data):
    good = tmp_path / "good"
    if not good.exists():
        REFERENCE.probe(noise(5, 16), **EVERYTHING).save(good)
    content = bytearray(good.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "changed").write_bytes(content)
    try:
        ProbeState.load(tmp_path / "changed")
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / 'changed'}: ")


def test_trailing_bytes(path):
    path.write_bytes(path.read_bytes() + b"more")
    assert_refused(path, "not a readable safetensors file")


@pytest.mark.parametrize("schema", ["0", "2", "1.0", ""])
def test_another_schema(path, schema):
    rewrite(path, lambda arrays, metadata: metadata.update(maxact_state=schema))
    assert_refused(path, f"expected a maxact state of schema 1, found of schema '{schema}'")


def test_foreign_safetensors(path):
    safetensors.numpy.save_file({"weight": np.ones((2, 2), np.float32)}, path)
    assert_refused(path, "expected a maxact state of schema 1, found something else")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_foreign_safetensors_of_a_type_that_numpy_lacks(path, dtype):
    safetensors.torch.save_file({"weight": torch.ones(2, 2).to(dtype)}, path)
    assert_refused(path)


def spoil(name, value):
    return lambda arrays, metadata: arrays.__setitem__(name, value)


def put(name, place, value):
    return lambda arrays, metadata: arrays[name].__setitem__(place, value)


def of_sum(index):
    return lambda arrays, metadata: arrays.update(
        {"sum.index": np.array(index, np.int32), "sum.value": np.ones(len(index), np.int64)}
    )


SPOILT = {
    "a field is missing": (lambda a, m: a.pop("absmax"), "absmax is missing"),
    "a table is missing": (lambda a, m: a.pop("counts.index"), "counts.index is missing"),
    "a table's values are missing": (lambda a, m: a.pop("counts.value"), "counts.value is missing"),
    "an unknown field": (spoil("more", np.ones(1)), "more: no such field"),
    "a shape": (spoil("channel_absmax", np.ones(17, np.float32)),
                re.escape("channel_absmax: float32 of shape [17], expected float32 of shape [16]")),
    "a scalar with an axis": (spoil("n_tokens", np.ones(1, np.int64)), re.escape("n_tokens: int64 of shape [1]")),
    "a dtype": (spoil("n_tokens", np.ones((), np.int32)), re.escape("n_tokens: int32 of shape [], expected int64")),
    "an index of two axes": (spoil("counts.index", np.zeros((1, 1), np.int32)),
                             "counts.index: int32 .* expected int32 of one axis"),
    "an index and no values": (spoil("counts.value", np.zeros(0, np.int64)), "counts.value: int64 of shape"),
    "an index unsorted": (of_sum([3, 5, 4]), "sum.index: expected increasing numbers from 0 to 703"),
    "an index twice": (of_sum([3, 5, 5]), "sum.index: expected increasing"),
    "a negative index": (put("counts.index", 0, -1), "counts.index: expected increasing numbers from 0 to 32767"),
    "an index too large": (put("sum.index", -1, 704), "sum.index: expected increasing"),
    "an index whose differences overflow": (of_sum([0, 2**31 - 1, -(2**31), -1, 5]), "sum.index: expected increasing"),
    "no options": (lambda a, m: m.pop("options"), "options: expected the keys d, dtype"),
    "options that are no JSON": (lambda a, m: m.update(options="{"), "not a maxact state: "),
    "options nested beyond reason": (lambda a, m: m.update(options="[" * 100_000), "not a maxact state: "),
    "options that are a list": (lambda a, m: m.update(options="[]"), "options: expected the keys d, dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_with_one_fault(path, name):
    change, text = SPOILT[name]
    rewrite(path, change)
    assert_refused(path, "not a maxact state: .*" + text if "not a maxact" not in text else text)


@pytest.mark.parametrize(
    "change",
    [
        dict(d=-1), dict(d="16"), dict(d=True), dict(d=1e9), dict(d=None), dict(d=17), dict(d=2**31 - 1),
        dict(d=10**400), dict(dtype="float64"), dict(dtype=None), dict(dtype=["bfloat16"]), dict(topk=0), dict(topk=1025), dict(topk=8),
        dict(t_abs=-1), dict(t_abs=float("inf")), dict(t_abs=float("nan")), dict(t_abs=10**400), dict(t_ratio="1"),
        dict(n_samples=-1), dict(n_samples=4), dict(n_samples=0), dict(counts=False), dict(medians=0), dict(more=1),
    ],
    ids=lambda change: "-".join(f"{k}={str(v)[:12]}" for k, v in change.items()),
)  # fmt: skip
def test_options_that_are_none_or_do_not_fit_the_fields(path, change):
    def respell(arrays, metadata):
        metadata["options"] = json.dumps({**json.loads(metadata["options"]), **change})

    rewrite(path, respell)
    assert_refused(path, "not a maxact state: ")


def test_a_missing_file_or_a_directory_is_an_oserror(tmp_path):
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError):
            ProbeState.load(missing)

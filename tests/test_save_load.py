"""A state that was saved and loaded is the same state; a write that fails leaves what was there."""

import json
import os
import resource

import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probes import EVERYTHING, REFERENCE, assert_identical, every_backend, every_dtype, ids_for, noise, tensors

from maxact_kernels import ProbeState, storage


@pytest.fixture
def directory(tmp_path):
    """A directory that must hold nothing but `state` in the end."""
    yield tmp_path
    assert {p.name for p in tmp_path.iterdir()} <= {"state"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_loaded_state_is_the_saved_one(directory, data):
    x = data.draw(tensors())
    options = dict(
        topk=data.draw(st.sampled_from([1, 7, 600])),
        t_abs=data.draw(st.sampled_from([100, 0.1])),
        n_samples=data.draw(st.sampled_from([0, 3])),
        counts=data.draw(st.booleans()),
        medians=data.draw(st.booleans()),
        int8_per_token=data.draw(st.booleans()),
    )
    state = REFERENCE.probe(x, token_ids=data.draw(ids_for(len(x))), **options)
    state.save(directory / "state")
    loaded = ProbeState.load(directory / "state")
    assert loaded.options == state.options
    assert torch.equal(loaded.buffer, state.buffer)


@every_backend
@every_dtype
def test_a_loaded_state_goes_on_where_it_was(place, dtype, directory):
    x, ids = noise(9, 40, dtype=dtype), torch.arange(9)
    state = place.probe(x[:5], token_ids=ids[:5], **EVERYTHING)
    state.save(directory / "state")
    loaded = ProbeState.load(str(directory / "state"), place.device, place.backend)
    assert loaded.backend.NAME == place.backend and loaded.device == state.device
    assert_identical(loaded, state)
    loaded.update(*place.move(x[5:]))
    assert_identical(loaded, place.probe(x, token_ids=ids, **EVERYTHING))


@every_backend
def test_a_state_of_any_backend_loads_on_the_cpu(place, directory):
    state = place.probe(noise(6, 40), **EVERYTHING)
    state.save(directory / "state")
    assert_identical(ProbeState.load(directory / "state", backend="reference"), state)


def test_the_file_is_small_where_tables_are_sparse(directory):
    REFERENCE.probe(noise(100, 64), **EVERYTHING).save(directory / "state")
    assert (directory / "state").stat().st_size < 50_000  # its buffer has 570 kB


def test_saving_replaces_the_file_and_obeys_the_umask(directory):
    state = REFERENCE.probe(noise(2, 8))
    (directory / "state").write_bytes(b"old")
    before = os.umask(0o027)
    try:
        state.save(directory / "state")
    finally:
        os.umask(before)
    assert (directory / "state").stat().st_mode & 0o777 == 0o640
    assert_identical(ProbeState.load(directory / "state"), state)


def test_a_bare_file_name_is_in_the_working_directory(directory, monkeypatch):
    monkeypatch.chdir(directory)
    REFERENCE.probe(noise(2, 8)).save("state")
    assert ProbeState.load("state").summary().n_tokens == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(directory, monkeypatch, step):
    state = REFERENCE.probe(noise(2, 8))
    (directory / "state").write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        state.save(directory / "state")
    assert (directory / "state").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(directory):
    """A limit on the size of files stands for the disk."""
    state = REFERENCE.probe(noise(2, 8))
    (directory / "state").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            state.save(directory / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (directory / "state").read_bytes() == b"old"


def test_a_directory_that_cannot_be_written_is_an_oserror(directory):
    state = REFERENCE.probe(noise(2, 8))
    (directory / "state").write_bytes(b"old")
    for path in (directory / "none" / "state", directory / "state" / "state", "/proc/state"):
        with pytest.raises(OSError) as error:
            state.save(path)
        assert error.value.filename == str(path)
    assert (directory / "state").read_bytes() == b"old"


def test_a_directory_in_the_place_of_the_file_stays(directory):
    (directory / "state").mkdir()
    with pytest.raises(OSError):
        REFERENCE.probe(noise(2, 8)).save(directory / "state")
    assert (directory / "state").is_dir()


def test_the_file_is_plain_safetensors_with_its_options(directory):
    REFERENCE.probe(noise(2, 8), **EVERYTHING).save(directory / "state")
    arrays, metadata = storage.read_safetensors(directory / "state")
    assert metadata["maxact_state"] == "1" and json.loads(metadata["options"])["n_samples"] == 3
    assert safetensors.numpy.load_file(directory / "state").keys() == arrays.keys()
    assert arrays["counts.value"].sum() == 16 and "counts" not in arrays

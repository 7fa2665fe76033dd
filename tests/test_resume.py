"""A run that is killed at any moment goes on with resume=True, and ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from test_measure import Faulty, Letters
from tiny_models import one_thread, tiny  # noqa: F401

import maxact.checkpoint as checkpoints
import maxact_kernels.storage as storage
from maxact import measure
from maxact.parallel import Team
from maxact.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [chr(97 + i % 26) * (3 + i * 5 % 11) for i in range(12)]
OPTIONS = dict(sites="default", tokens_per_batch=20, topk=9)


def run_to(directory: Path, name: str, model=None, **options):
    """Measure with a checkpoint after every batch, and save the run."""
    model = model or tiny("llama", dtype=torch.bfloat16)
    options = OPTIONS | dict(checkpoint=directory / f".{name}") | options
    run = measure(model, Letters(), TEXTS, **options)
    run.save(directory / name, overwrite=True)
    return run


def files(directory: Path) -> tuple[bytes, dict]:
    """What a run directory holds, without what time it was."""
    record = json.loads((directory / "run.json").read_text())
    del record["created"], record["wall_s"]
    return (directory / "sites.safetensors").read_bytes(), record


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(when: str, directory: Path, name: str) -> None:
    """Measure, in a process that is killed at this moment."""
    what, _, nth = when.partition(" ")
    calls = []

    def die_at(nth):
        calls.append(1)
        if len(calls) == nth:
            die()

    model = tiny("llama", dtype=torch.bfloat16)
    options = dict(resume=True)
    real_fsync, real_replace = os.fsync, os.replace
    if what == "after-batch":
        options["on_progress"] = lambda progress: die_at(int(nth))
    elif what == "in-layer":
        model.model.layers[1].register_forward_hook(lambda *_: die_at(int(nth)))
    elif what == "before-replace":  # all is written, under its temporary name
        storage.os.fsync = lambda file: (die_at(int(nth)), real_fsync(file))
    elif what == "half-written":
        storage.os.fsync = lambda file: (os.ftruncate(file, 1000), die_at(int(nth)), real_fsync(file))
    elif what == "after-replace":
        storage.os.replace = lambda *paths: (real_replace(*paths), die_at(int(nth)))
    elif what == "out-of-memory":
        NoRoomForTheFirstPair(model)
        options["on_progress"] = lambda progress: die_at(int(nth))
    run_to(directory, name, model, **options)


class NoRoomForTheFirstPair(Faulty):
    """The first batch of more than one sample does not fit in memory."""

    def __init__(self, model):
        found = []

        def first_pair(calls, output):
            found.extend([calls] * (output.shape[0] > 1))
            return found[:1] == [calls]

        super().__init__(model, first_pair, torch.OutOfMemoryError("CUDA out of memory"))


MOMENTS = {
    "once": ["after-batch 2"],
    "at every moment": [
        "after-batch 1",
        "half-written 1",
        "before-replace 2",
        "in-layer 2",
        "after-replace 1",
    ],
    "before the first checkpoint": ["in-layer 1", "before-replace 1"],
    "with a batch halved before": ["out-of-memory 8"],
}


def all_scenarios(_, directory: str) -> None:
    """In a process of its own, whose children can be killed; a fork shares what was imported."""
    torch.set_num_threads(1)
    checkpoints.SHARE = 1e9  # a checkpoint after every batch
    for name, moments in MOMENTS.items():
        for when in moments:
            child = os.fork()
            if child == 0:
                dying(when, Path(directory), name)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, when, status)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("killed")
    torch.multiprocessing.spawn(all_scenarios, (str(directory),))
    return directory


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)


@pytest.mark.parametrize("name", [name for name in MOMENTS if "halved" not in name])
def test_killed_and_resumed_it_has_the_bits_of_one_that_was_not(killed, name):
    run_to(killed, "whole")
    n_parts = len(list((killed / f".{name}").glob("*.safetensors")))
    assert n_parts == {"once": 1, "at every moment": 2, "before the first checkpoint": 0}[name]
    measured = []
    run_to(killed, name, resume=True, on_progress=measured.append)
    assert measured[-1].n_tokens == measured[-1].n_tokens_total == sum(map(len, TEXTS))
    assert files(killed / name) == files(killed / "whole")


def test_what_memory_allowed_before_is_what_it_allows_after(killed):
    name = "with a batch halved before"
    with NoRoomForTheFirstPair(model := tiny("llama", dtype=torch.bfloat16)):
        run_to(killed, "halved", model)
    run_to(killed, name, resume=True)
    assert files(killed / name) == files(killed / "halved")
    assert files(killed / name)[1]["tokens_per_batch"] < OPTIONS["tokens_per_batch"]


def test_a_run_that_has_all_is_not_measured_again(tmp_path, often):
    with pytest.raises(RuntimeError, match="after the last"):
        run_to(tmp_path, "r", on_progress=fail_at_the_end)
    whole = run_to(tmp_path, "whole")
    model = tiny("llama", dtype=torch.bfloat16)
    with Faulty(model, lambda *_: True, RuntimeError("a forward pass")):
        run = run_to(tmp_path, "r", model, resume=True)
    assert run.M == whole.M and files(tmp_path / "r") == files(tmp_path / "whole")


def fail_at_the_end(progress):
    if progress.n_tokens == progress.n_tokens_total:
        raise RuntimeError("after the last batch")


def test_an_error_of_the_model_keeps_what_was_measured_before(tmp_path):
    model = tiny("llama", dtype=torch.bfloat16)
    with Faulty(model, lambda calls, output: calls == 3, RuntimeError("a fault")):
        with pytest.raises(RuntimeError, match="a fault"):
            run_to(tmp_path, "r", model)
    calls = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    run_to(tmp_path, "r", model, resume=True)
    run_to(tmp_path, "whole")
    assert files(tmp_path / "r") == files(tmp_path / "whole")
    n_batches = len(calls)
    run_to(tmp_path, "again", model)
    assert n_batches == len(calls) - n_batches - 2


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (dict(topk=10), "topk is 10, before 9"),
        (dict(tokens_per_batch=21), "tokens_per_batch is 21, before 20"),
        (dict(bos=True), "token_ids is"),
        (dict(sites="gemm"), "sites is 'gemm', before 'default'"),
        (dict(skip_first=1), "skip_first is 1, before 0"),
        (dict(shard=(2, 3)), r"shard is \[2, 3\], before \[1, 1\]"),
    ],
)
def test_another_option_is_refused_by_its_name(tmp_path, often, change, difference):
    with pytest.raises(RuntimeError):
        run_to(tmp_path, "r", on_progress=fail_at_the_end)
    with pytest.raises(ValueError, match="the checkpoint is of another measurement: .*" + difference):
        run_to(tmp_path, "r", resume=True, **change)


def test_another_model_or_corpus_is_refused_by_its_name(tmp_path, often):
    with pytest.raises(RuntimeError):
        run_to(tmp_path, "r", on_progress=fail_at_the_end)
    other = tiny("llama", dtype=torch.bfloat16)
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.mul_(1.01)
    with pytest.raises(ValueError, match="weights is '.*', before '"):
        run_to(tmp_path, "r", other, resume=True)
    with pytest.raises(ValueError, match="corpus is '.*', before '.*; token_ids is"):
        measure(
            tiny("llama", torch.bfloat16), Letters(), TEXTS[:-1], checkpoint=tmp_path / ".r", resume=True, **OPTIONS
        )


def test_a_checkpoint_is_never_overwritten_unasked(tmp_path, often):
    with pytest.raises(RuntimeError):
        run_to(tmp_path, "r", on_progress=fail_at_the_end)
    with pytest.raises(FileExistsError, match="--resume"):
        run_to(tmp_path, "r")


def test_a_file_that_is_no_checkpoint_is_refused_by_its_name(tmp_path, often):
    with pytest.raises(RuntimeError):
        run_to(tmp_path, "r", on_progress=fail_at_the_end)
    (part,) = (tmp_path / ".r").glob("*.safetensors")
    whole = part.read_bytes()
    for bad in (whole[:1000], b"", whole.replace(b'\\"budget\\": 20', b'\\"budget\\": "a"')):
        part.write_bytes(bad)
        with pytest.raises(ValueError, match=part.name):
            run_to(tmp_path, "r", resume=True)
    part.write_bytes(whole)
    part.with_name("copy.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match="samples that another part holds too"):
        run_to(tmp_path, "r", resume=True)


def test_a_full_disk_is_noted_and_the_run_goes_on(tmp_path, often, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    notes = []
    run = run_to(tmp_path, "r", on_note=notes.append)
    assert not run.partial and "No space left on device" in notes[0]


def test_checkpoints_take_less_than_a_hundredth_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    written = []
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock[0])

    def write(path, data):
        clock[0] += 0.5
        written.append(clock[0])

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    kept = checkpoints.Checkpoint(tmp_path, {}, False, Team(Split()), print)
    while clock[0] < 500:
        kept.offer({}, [0], 1, 0.0)
        clock[0] += 0.25
    assert 0.5 * (len(written) - 1) <= 0.01 * clock[0] and len(written) > 5

"""Processes that share the batches make the run that one makes, bit for bit; one that stops is named by the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from test_cli import model_directory  # noqa: F401
from test_measure import Faulty, Letters
from test_resume import OPTIONS, TEXTS, files, run_to
from tiny_models import one_thread, tiny  # noqa: F401

import maxact.checkpoint as checkpoints
import maxact.parallel as parallel
from maxact import measure

pytestmark = pytest.mark.usefixtures("one_thread")


def stopped(rank: int, directory: Path, name: str, fault) -> str:
    """How a run ends in which process 1 meets this fault in its second batch."""
    model = tiny("llama", dtype=torch.bfloat16)
    try:
        with Faulty(model, lambda calls, output: rank == 1 and calls == 2, fault):
            run_to(directory / str(rank), name, model, checkpoint=directory / f".{name}")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "ended"


def in_each(rank: int, place: str) -> dict:
    """Every scenario, one after another, in each of three processes."""
    directory, told, notes = Path(place), [], []
    mine = directory / str(rank)
    mine.mkdir()
    run_to(mine, "whole", on_progress=told.append)

    checkpoints.SHARE = 1e9  # a checkpoint after every batch
    ends = [stopped(rank, directory, name, RuntimeError("a fault")) for name in ("resumed-by-three", "resumed-by-one")]
    ends.append(stopped(rank, directory, "interrupted", KeyboardInterrupt()))
    run_to(mine, "resumed-by-three", checkpoint=directory / ".resumed-by-three", resume=True)

    few = measure(tiny("llama"), Letters(), TEXTS[:2], sites=["layer_*_hidden"], tokens_per_batch=100)
    few.save(mine / "few")

    model = tiny("llama", dtype=torch.bfloat16)
    pairs = lambda calls, output: rank == 2 and output.shape[0] > 1  # noqa: E731
    with Faulty(model, pairs, torch.OutOfMemoryError("CUDA out of memory")):
        halved = measure(model, Letters(), TEXTS, **OPTIONS, on_note=notes.append)

    parallel.BEAT_S, parallel.SILENCE_S = 0.1, 4.0
    died = ""
    if rank == 2:
        model.model.layers[1].register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    try:
        run_to(mine, "died", model, checkpoint=directory / ".died")
    except parallel.Stopped as error:
        died = str(error)
    return dict(
        told=[tuple(p) for p in told], ends=ends, notes=notes, died=died,
        halved=(halved.provenance["n_tokens"], halved.provenance["tokens_per_batch"]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(directory):
    return processes.run(in_each, 3, str(directory))


@pytest.fixture
def whole(directory, results):
    run_to(directory, "whole")
    return files(directory / "whole")


def without_hardware(record: tuple[bytes, dict]) -> tuple[bytes, dict]:
    return record[0], {name: value for name, value in record[1].items() if name != "environment"}


def test_the_run_has_the_same_bits_in_every_process_and_as_from_one(results, directory, whole):
    for rank in range(3):
        assert without_hardware(files(directory / str(rank) / "whole")) == without_hardware(whole)
        assert files(directory / str(rank) / "whole")[1]["environment"]["processes"] == 3


def test_progress_counts_what_all_have_measured(results):
    for n_tokens, total, _, _ in results[0]["told"]:
        assert n_tokens <= total == sum(map(len, TEXTS))


def test_a_process_without_a_batch_takes_part(results, directory):
    alone = measure(tiny("llama"), Letters(), TEXTS[:2], sites=["layer_*_hidden"], tokens_per_batch=100)
    alone.save(directory / "few", overwrite=True)
    for rank in range(3):
        assert without_hardware(files(directory / str(rank) / "few")) == without_hardware(files(directory / "few"))


def test_when_one_fails_the_others_stop_with_its_name(results):
    others, own = results[0]["ends"], results[1]["ends"]
    for fault, end in zip(["RuntimeError: a fault"] * 2 + ["interrupted"], others, strict=True):
        assert end.startswith(f"Stopped: rank 1 has stopped: {fault}; what this process measured is kept in ")
        assert end.endswith(": go on with --resume.")
    assert own[:2] == ["RuntimeError: a fault"] * 2 and own[2].startswith("KeyboardInterrupt: interrupted; what")


def test_what_was_measured_is_kept_and_goes_on_with_any_number_of_processes(results, directory, whole):
    for rank in range(3):
        assert without_hardware(files(directory / str(rank) / "resumed-by-three")) == without_hardware(whole)
    run_to(directory, "resumed-by-one", resume=True)
    assert files(directory / "resumed-by-one") == whole
    run_to(directory, "interrupted", resume=True)
    assert files(directory / "interrupted") == whole


def test_one_that_is_killed_is_named_by_the_others(results):
    assert results[2] is None
    for rank in (0, 1):
        assert "rank 2 has stopped: no sign of life for 4 s" in results[rank]["died"]


def test_memory_that_runs_out_in_one_process_halves_its_batches_alone(results):
    for rank in (0, 1):
        n_tokens, budget = results[rank]["halved"]
        assert n_tokens == sum(map(len, TEXTS)) and budget < OPTIONS["tokens_per_batch"]
        assert not results[rank]["notes"]


def test_torchrun_makes_the_run_that_one_process_makes(model_directory, tmp_path):  # noqa: F811
    command = ["-m", "maxact", "measure", str(model_directory), "--corpus", str(tmp_path / "c.jsonl")]
    command += ["--tokens-per-batch", "8", "--limit", "9", "-o"]
    rows = [json.dumps({"text": " ".join("abcdefgh"[: 2 + i % 6])}) for i in range(9)]
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *command, tmp_path / "one"], check=True, env=environment, capture_output=True)
    done = subprocess.run([*torchrun, *command, tmp_path / "two"], check=True, env=environment, capture_output=True)
    assert done.stdout.decode().count("M = ") == 1
    assert without_hardware(files(tmp_path / "two")) == without_hardware(files(tmp_path / "one"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "one", "two"]


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 3 of this machine has no GPU of its own: there are 2"):
        parallel.join("auto")
    with pytest.raises(ValueError, match="device: 'cuda:0' is one GPU for several processes"):
        parallel.join("cuda:0")


def on_one_gpu_each(rank: int, place: str) -> None:
    run_to(Path(place) / str(rank), "whole", tiny("llama", dtype=torch.bfloat16).to(f"cuda:{rank}"))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_make_the_run_that_one_makes(tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    processes.run(on_one_gpu_each, 2, str(tmp_path), backend="nccl")
    run_to(tmp_path, "whole", tiny("llama", dtype=torch.bfloat16).to("cuda:0"))
    for rank in range(2):
        assert without_hardware(files(tmp_path / str(rank) / "whole")) == without_hardware(files(tmp_path / "whole"))

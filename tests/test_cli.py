"""The commands as a user runs them: what they print, what they leave, and one sentence with exit code 2 for bad input."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch
import typer
from commands import maxact

from maxact import cli
from maxact.run import Run


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    from tiny_models import tiny
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama", dtype=torch.bfloat16).save_pretrained(directory)
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "[/red]\x1b[31m": 3, "<unk>": 4}
    words |= {chr(97 + i): 5 + i for i in range(26)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(directory)
    return directory


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": "a b c d", "domain": "letters"}, {"text": "e f"}, None, {"text": "[/red]\x1b[31m g"}]
    path.write_text("\n".join("not json" if row is None else json.dumps(row) for row in rows))
    return path


def test_measure_leaves_a_run_that_show_prints_again(model_directory, corpus, tmp_path, capsys):
    out, err = maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "run", capsys=capsys)
    assert "1 line of the corpus could not be used, the first: line 3: not JSON" in err
    assert "tokens/s" in err and "Written to" in err
    assert out.startswith("tiny-llama · bfloat16 · corpus corpus.jsonl · 3 samples · ") and "M = " in out
    again, _ = maxact("show", tmp_path / "run", capsys=capsys)
    assert again == out
    run = Run.load(tmp_path / "run")
    assert run.provenance["model"]["model_id"] == "tiny-llama" and run.provenance["model"]["trust_remote_code"] is False
    assert str(model_directory) not in (tmp_path / "run" / "run.json").read_text()
    for kind in ("attn_output", "mlp_gate", "mlp_output"):
        assert kind in maxact("show", tmp_path / "run", "--kind", kind, capsys=capsys)[0]


def test_json_is_for_scripts(model_directory, corpus, tmp_path, capsys):
    out, _ = maxact(
        "measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", "--bos", "--json", capsys=capsys
    )
    record = json.loads(out)
    assert record["corpus"]["bos"] is True and record["M"] == Run.load(tmp_path / "r").M
    assert json.loads(maxact("show", tmp_path / "r", "--json", capsys=capsys)[0]) == record
    doctor = json.loads(maxact("doctor", "--json", capsys=capsys)[0])
    assert {row["name"] for row in doctor["backends"]} >= {"cpu", "reference"}


def test_text_of_a_token_is_shown_and_not_obeyed(model_directory, corpus, tmp_path, capsys):
    maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", capsys=capsys)
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    for token in record["token_text"].values():
        token["text"] = "[bold]\x1b[2J\u202e:smile:[/foo]" + "x" * 500
    record["model"]["model_id"] = "<b>\x1b]0;title\x07"
    (tmp_path / "r" / "run.json").write_text(json.dumps(record))
    out, _ = maxact("show", tmp_path / "r", capsys=capsys)
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "[bold]\\x1b[2J\\u202e:smile:[/foo]" in out and "x" * 100 not in out


def test_a_pattern_chooses_sites(model_directory, corpus, tmp_path, capsys):
    maxact(
        "measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", "--sites", "layer_*_hidden", capsys=capsys
    )
    assert set(Run.load(tmp_path / "r").sites) == {f"layer_{i}_hidden" for i in range(3)}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["measure", "./no-such-model"], "'./no-such-model' does not exist"),
        (["measure", "MODEL", "--corpus", "missing.jsonl"], "'missing.jsonl' does not exist"),
        (["measure", "MODEL", "--corpus", "EMPTY"], "no usable line"),
        (["measure", "MODEL", "--bos", "--chat-template"], "choose one"),
        (["measure", "MODEL", "--dtype", "int8"], "dtype: 'int8'"),
        (["measure", "MODEL", "--device", "cuda:99"], "device: 'cuda:99'"),
        (["measure", "MODEL", "--sites", "layer_*_nothing"], "matches no site"),
        (["measure", "MODEL", "--backend", "abacus"], "backend: 'abacus'"),
        (["measure", "MODEL", "-o", "/proc/run"], "/proc"),
        (["measure", "MODEL", "-o", "TAKEN"], "is not a run directory"),
        (["measure", "MODEL", "--shard", "0/3"], "shard: '0/3', expected K/N"),
        (["show", "nothing-here"], "not a run directory"),
        (["tensor", "missing.npy"], "missing.npy: No such file"),
        (["tensor", "EMPTY"], "expected a .safetensors or .npy file"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(
    args, sentence, model_directory, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n{}\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    places = {"MODEL": model_directory, "EMPTY": tmp_path / "empty.jsonl", "TAKEN": tmp_path / "taken"}
    before = sorted(tmp_path.rglob("*"))
    out, err = maxact(*(places.get(arg, arg) for arg in args), code=2, capsys=capsys)
    assert out == "" and sentence in err
    assert err.count("maxact: ") == 1 and len(err.splitlines()) <= 2 and "Traceback" not in err
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != "runs"] == before


def test_a_run_from_the_future_is_refused(model_directory, corpus, tmp_path, capsys):
    maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", capsys=capsys)
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    (tmp_path / "r" / "run.json").write_text(json.dumps(record | {"schema": 99}))
    _, err = maxact("show", tmp_path / "r", code=2, capsys=capsys)
    assert "schema 99, expected 1" in err


def test_a_full_disk_at_the_end_does_not_lose_the_run(model_directory, corpus, tmp_path, capsys, monkeypatch):
    import maxact.run as module

    real = module.write_atomically

    def full_disk(path, data):
        if tmp_path in path.parents:
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(module, "write_atomically", full_disk)
    _, err = maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", code=2, capsys=capsys)
    assert "No space left on device" in err and not (tmp_path / "r").exists()
    rescued = err.strip().rpartition("saved to ")[2].removesuffix(" instead")
    assert Run.load(rescued).M > 0

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, err = maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", code=2, capsys=capsys)
    assert f"{tmp_path / 'r'}: could not be written" in err and "nor could" in err and "make room" in err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_run_that_failed_goes_on_with_resume_and_only_then(model_directory, corpus, tmp_path, capsys, monkeypatch):
    import maxact.measurement as module

    real, calls = module.forward, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("a fault")
        real(*args)

    command = ["measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", "--tokens-per-batch", "4"]
    monkeypatch.setattr(module, "forward", failing)
    assert "a fault" in maxact(*command, code=2, capsys=capsys)[1] and not (tmp_path / "r").exists()
    assert "--resume" in maxact(*command, code=2, capsys=capsys)[1] and len(calls) == 2
    maxact(*command, "--resume", capsys=capsys)
    assert Run.load(tmp_path / "r").provenance["n_samples"] == 3 and len(calls) == 3
    assert not (tmp_path / ".r.checkpoint").exists()


def test_tensor_prints_every_tensor_of_a_file(tmp_path, capsys):
    x = np.zeros((4, 8), dtype=np.float32)
    x[2, 5] = -1234.5
    np.save(tmp_path / "x.npy", x)
    out, _ = maxact("tensor", tmp_path / "x.npy", capsys=capsys)
    assert "1,234" in out and "[2, 5]" in out
    (row,) = json.loads(maxact("tensor", tmp_path / "x.npy", "--json", capsys=capsys)[0])
    assert row["absmax"] == 1234.5 and row["topk"][0] == [-1234.5, 2, 5] and row["shape"] == [4, 8]


def test_interrupted_by_the_keyboard_the_run_is_kept_and_says_it_is_partial(model_directory, tmp_path):
    corpus = tmp_path / "long.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": "a b c d e f " * 8}) for _ in range(20_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "maxact", "measure", str(model_directory), "--corpus", str(corpus)]
        + ["-o", str(tmp_path / "run"), "--tokens-per-batch", "48"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    for line in process.stderr:
        if line.startswith("measured"):
            break
    process.send_signal(2)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "PARTIAL" in out
    run = Run.load(tmp_path / "run")
    assert run.partial and 0 < run.provenance["n_tokens"] < 20_000 * 48
    assert all(summary.n_tokens == run.provenance["n_tokens"] for summary in run.sites.values())


def test_interrupted_before_the_first_batch_it_says_that_there_is_nothing(
    model_directory, corpus, tmp_path, capsys, monkeypatch
):
    import maxact.measurement as module

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "forward", interrupted)
    _, err = maxact("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", code=130, capsys=capsys)
    assert "maxact: interrupted before anything was measured; nothing was written." in err
    assert not (tmp_path / "r").exists()


def test_help_comes_fast_and_imports_no_pytorch():
    code = "import sys; sys.argv = ['maxact', '--help']\nfrom maxact.cli import app\n"
    code += (
        "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3  # far above the 0.3 s that it takes: only an import of PyTorch would reach it


@pytest.mark.parametrize("command", sorted(typer.main.get_command(cli.app).commands))
def test_every_command_has_help_with_an_example_that_begins_with_its_name(command, capsys):
    out, _ = maxact(command, "--help", capsys=capsys)
    assert f"Example: maxact {command}" in " ".join(out.split())


def test_output_cut_off_by_a_pager_is_no_error(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((100, 30), dtype=np.float32))
    command = f"{sys.executable} -m maxact tensor {tmp_path / 'x.npy'} --topk 1000 --json | (sleep 1; head -1); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and "Traceback" not in done.stderr

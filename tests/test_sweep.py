"""A sweep sees each token of the vocabulary once, at position 0, and finds the largest of them all with its token."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from test_cli import maxact, model_directory  # noqa: F401
from test_measure import Faulty, Letters
from tiny_models import VOCAB, one_thread, tiny  # noqa: F401

from maxact.run import Run
from maxact.show_sweep import print_sweep
from maxact.sweep import sees_only_itself, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def largest_by_token(model, front=()) -> dict[str, torch.Tensor]:
    """|x| of each layer's output at the last position, the largest of each token, one forward pass a token."""
    found: dict[str, list[float]] = {}
    for id in range(VOCAB):
        with torch.inference_mode():
            out = model(torch.tensor([[*front, id]]), output_hidden_states=True)
        for i in (0, 1):  # the last entry is after the final norm
            found.setdefault(f"layer_{i}_hidden", []).append(out.hidden_states[i + 1][0, -1].abs().max().item())
    return {name: torch.tensor(values) for name, values in found.items()}


@pytest.mark.parametrize("bos", [False, True])
def test_it_is_the_largest_of_every_token_on_its_own(model, bos):
    run = sweep(model, Letters(), bos=bos, tokens_per_batch=14)
    assert run.provenance["n_tokens"] == VOCAB and all(s.n_tokens == VOCAB for s in run.sites.values())
    assert run.provenance["sweep"]["position"] == int(bos)
    for name, values in largest_by_token(model, [1] * bos).items():
        assert run.sites[name].absmax == pytest.approx(values.max().item(), rel=1e-5)
        tokens = run.provenance["sweep"]["sites"][name]
        assert [t["id"] for t in tokens] == values.argsort(descending=True)[: len(tokens)].tolist()
        assert tokens[0]["text"] == f"<{tokens[0]['id']}>" and len({t["id"] for t in tokens}) == len(tokens)
        assert {int(token) & 0xFFFFFFFF for token in run.sites[name].topk.token_ids} == {int(bos)}


def test_no_text_has_more_at_position_0(model):
    run = sweep(model, Letters())
    assert run.provenance["sweep"]["exhaustive"] is True
    ids = torch.randint(VOCAB, (500, 6), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden = model(ids, output_hidden_states=True).hidden_states[2]
    assert hidden[:, 0].abs().max() <= run.sites["layer_1_hidden"].absmax * (1 + 1e-5)


class Bidirectional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, 8)

    def forward(self, input_ids, use_cache):
        x = self.embedding(input_ids)
        return (x + x.mean(1, keepdim=True),)


def test_a_model_whose_first_position_sees_what_follows_is_found_out(model):
    assert sees_only_itself(model.model, VOCAB, torch.device("cpu"))
    assert not sees_only_itself(Bidirectional(), VOCAB, torch.device("cpu"))


def test_an_interrupted_sweep_holds_whole_batches_and_is_not_exhaustive(model):
    with Faulty(model, lambda calls, output: calls == 5, KeyboardInterrupt()):  # two calls try out what position 0 sees
        run = sweep(model, Letters(), tokens_per_batch=10)
    assert run.partial and run.provenance["sweep"]["exhaustive"] is False
    assert run.provenance["n_tokens"] == 20 and all(s.n_tokens == 20 for s in run.sites.values())


def test_a_sweep_that_died_goes_on_to_the_same_bits(model, tmp_path):
    options = dict(tokens_per_batch=10, checkpoint=tmp_path / ".sweep")
    with Faulty(model, lambda calls, output: calls == 5, ValueError("it died")), pytest.raises(ValueError, match="it died"):
        sweep(model, Letters(), **options)
    with pytest.raises(FileExistsError, match="--resume"):
        sweep(model, Letters(), **options)
    with pytest.raises(ValueError, match="bos is True, before False"):
        sweep(model, Letters(), bos=True, resume=True, **options)
    with Faulty(model, lambda calls, output: calls > 4, ValueError("measured again")):  # two tries, two of four batches
        run = sweep(model, Letters(), resume=True, **options)
    whole = sweep(model, Letters(), tokens_per_batch=10)
    assert run.provenance["sweep"] == whole.provenance["sweep"] and run.provenance["n_tokens"] == VOCAB
    for each, name in ((run, "resumed"), (whole, "whole")):
        each.save(tmp_path / name)
    assert (tmp_path / "resumed/sites.safetensors").read_bytes() == (tmp_path / "whole/sites.safetensors").read_bytes()


def test_a_batch_too_large_for_memory_is_halved(model):
    whole, notes = sweep(model, Letters()), []
    too_large = Faulty(model, lambda calls, output: len(output) > 12, torch.OutOfMemoryError("CUDA out of memory"))
    with too_large:
        run = sweep(model, Letters(), on_note=notes.append)
    assert "did not fit in memory" in notes[0] and run.provenance["n_tokens"] == VOCAB
    assert run.sites["embedding_output"].counts.tobytes() == whole.sites["embedding_output"].counts.tobytes()


def test_rows_of_the_embedding_that_no_token_names_are_left_out():
    model = tiny("llama", vocab_size=VOCAB + 24)
    assert sweep(model, Letters(), sites=["embedding_output"]).provenance["n_tokens"] == VOCAB


def test_ids_that_no_token_has_are_left_out_wherever_they_lie(model):
    class Gaps(Letters):
        def get_vocab(self):
            return {str(id): id for id in (0, 3, 7, VOCAB - 1, VOCAB + 5)}

    run = sweep(model, Gaps(), sites=["embedding_output"])
    assert run.provenance["n_tokens"] == run.provenance["sweep"]["n_vocabulary"] == 4
    assert {int(token) >> 32 for token in run.sites["embedding_output"].topk.token_ids} == {0, 3, 7, VOCAB - 1}


def test_a_model_that_gives_nan_is_swept_to_its_end_and_says_so():
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    run = sweep(model, Letters())
    assert run.provenance["n_tokens"] == VOCAB and run.provenance["sweep"]["exhaustive"] is None
    console = Console(file=io.StringIO(), width=200)
    print_sweep(run, console)
    shown = console.file.getvalue()
    assert "Whether this is exhaustive cannot be said" in shown and "first layer_1_mlp_output (40 nan, 0 inf)" in shown


def test_experts_are_swept_too_and_their_largest_tokens_named():
    changes = dict(moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, head_dim=16)
    run = sweep(tiny("qwen3_moe", **changes), Letters(), sites="gemm")
    for name in (f"layer_{i}_experts_act" for i in range(3)):
        assert run.provenance["sweep"]["sites"][name][0]["absmax"] == run.sites[name].absmax
    assert run.provenance["sweep"]["exhaustive"] and not any("moe_gate" in n for n in run.provenance["sweep"]["sites"])


def test_bad_options_are_refused(model):
    with pytest.raises(ValueError, match="tokens_per_batch: 1, expected at least 2"):
        sweep(model, Letters(), bos=True, tokens_per_batch=1)
    without = Letters()
    without.bos_token_id = None
    with pytest.raises(ValueError, match="has no BOS token"):
        sweep(model, without, bos=True)


def test_the_command_leaves_a_run_and_shows_its_tokens(model_directory, tmp_path, capsys):  # noqa: F811
    out, err = maxact("sweep", model_directory, "-o", tmp_path / "run", capsys=capsys)
    assert "31 of 31 tokens, each alone at position 0" in out and "Exhaustive" in out and "Written to" in err
    run = Run.load(tmp_path / "run")
    tokens = run.provenance["sweep"]["sites"][run.peaks()[0].site]
    assert tokens[0]["absmax"] == run.M and tokens[0]["id"] == run.peaks()[0].sample
    assert "\x1b" not in out
    assert "corpus vocabulary" in maxact("show", tmp_path / "run", capsys=capsys)[0]
    args = ("sweep", model_directory, "-o", tmp_path / "bos", "--bos", "--json")
    record = json.loads(maxact(*args, capsys=capsys)[0])
    assert record["sweep"]["position"] == 1 and record["M"] == Run.load(tmp_path / "bos").M
    assert not (tmp_path / ".run.checkpoint").exists()
    assert "holds a run already" in maxact("sweep", model_directory, "-o", tmp_path / "run", code=2, capsys=capsys)[1]


def test_the_command_goes_on_where_it_died(model_directory, tmp_path, capsys, monkeypatch):  # noqa: F811
    from maxact import sweep as module

    def dies(model, probe, encoded, kinds, samples, counted):
        if 20 in samples:
            raise ValueError("it died")
        forward(model, probe, encoded, kinds, samples, counted)

    forward = module.forward
    command = ("sweep", model_directory, "--tokens-per-batch", "8", "-o")
    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", dies)
        assert "it died" in maxact(*command, tmp_path / "run", code=2, capsys=capsys)[1]
    assert "go on with it with --resume" in maxact(*command, tmp_path / "run", code=2, capsys=capsys)[1]
    maxact(*command, tmp_path / "run", "--resume", capsys=capsys)
    maxact(*command, tmp_path / "whole", capsys=capsys)
    resumed, whole = ((tmp_path / name / "sites.safetensors").read_bytes() for name in ("run", "whole"))
    assert resumed == whole and not (tmp_path / ".run.checkpoint").exists()


def test_two_processes_share_a_vocabulary_and_find_what_one_finds(model_directory, tmp_path):  # noqa: F811
    command = ["-m", "maxact", "sweep", str(model_directory), "--tokens-per-batch", "8", "-o"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for start, name in (([sys.executable], "one"), (torchrun, "two")):
        subprocess.run([*start, *command, tmp_path / name], check=True, env=environment, capture_output=True)
    one, two = (Run.load(tmp_path / name) for name in ("one", "two"))
    assert one.provenance["sweep"] == two.provenance["sweep"] and two.provenance["n_tokens"] == 31
    assert (tmp_path / "one" / "sites.safetensors").read_bytes() == (
        tmp_path / "two" / "sites.safetensors"
    ).read_bytes()

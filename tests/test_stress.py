"""Stress inputs are what their kind says, the same each time, and change nothing of the corpus's run."""

import io
import json

import pytest
from rich.console import Console
from test_cli import maxact, model_directory  # noqa: F401
from test_measure import Letters
from tiny_models import tiny

from maxact import measure
from maxact.corpus import Corpus, Sample
from maxact.run import Run
from maxact.stress import DELIMITERS, SCRIPTS, print_stress, special_ids, stress_corpus


class Bytes:
    """A tokenizer of bytes, with special tokens behind them, one of which only `added_tokens_decoder` knows."""

    all_special_ids = [256, 257]

    class Added:
        def __init__(self, special):
            self.special = special

    added_tokens_decoder = {257: Added(True), 258: Added(False), 259: Added(True)}

    def __len__(self):
        return 260

    def __call__(self, text, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": list(text.encode())}


def by_domain(corpus) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for sample in corpus.samples:
        found.setdefault(sample.domain, []).append(sample.input_ids)
    return found


def test_every_kind_is_what_it_says():
    kinds = by_domain(stress_corpus(Bytes(), length=64))
    assert list(kinds) == ["random tokens", "repeated token", "delimiters", "rare scripts", "special tokens"]
    drawn = [id for ids in kinds["random tokens"] for id in ids]
    assert not {256, 257, 259} & set(drawn) and 258 in drawn and len(set(drawn)) > 200
    assert all(len(set(ids)) == 1 and len(ids) == 64 for ids in kinds["repeated token"])
    assert kinds["delimiters"][1] == list(b"\n\n" * 32) and len(kinds["delimiters"]) == len(DELIMITERS)
    assert len(kinds["rare scripts"]) == len(SCRIPTS)
    for (first, last), ids in zip(SCRIPTS.values(), kinds["rare scripts"]):
        text = bytes(ids).decode(errors="ignore").replace(" ", "")
        assert text and all(first <= ord(letter) <= last for letter in text)


def test_every_special_token_stands_first_and_again_later():
    assert special_ids(Bytes()) == [256, 257, 259]
    kinds = by_domain(stress_corpus(Bytes()))
    assert [(ids[0], ids[-1], len(ids)) for ids in kinds["special tokens"]] == [(i, i, 9) for i in (256, 257, 259)]


def test_the_letters_of_the_scripts_are_letters_of_these_scripts():
    import unicodedata

    for name, (first, last) in SCRIPTS.items():
        stretch = [unicodedata.name(chr(c), "") for c in (first, last)]
        word = {"Canadian syllabics": "CANADIAN", "N'Ko": "NKO", "Egyptian hieroglyphs": "EGYPTIAN"}.get(name, name)
        assert all(entry.startswith(word.upper()) for entry in stretch), (name, stretch)


def test_the_same_tokenizer_gives_the_same_samples():
    assert stress_corpus(Bytes()).digest == stress_corpus(Bytes()).digest != stress_corpus(Bytes(), seed=1).digest


def test_a_stress_run_stands_apart_and_the_run_of_the_corpus_is_as_without(model_directory, tmp_path, capsys):  # noqa: F811
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in ("a b c d", "e f")))
    args = ("measure", model_directory, "--corpus", corpus)
    maxact(*args, "-o", tmp_path / "plain", capsys=capsys)
    out, err = maxact(*args, "-o", tmp_path / "run", "--stress", "--max-length", "32", capsys=capsys)
    plain, run, stress = (Run.load(tmp_path / name) for name in ("plain", "run", "run-stress"))
    assert [run.sites[name].absmax for name in run.sites] == [plain.sites[name].absmax for name in plain.sites]
    assert run.provenance["corpus"]["digest"] == plain.provenance["corpus"]["digest"]
    assert stress.provenance["corpus"]["name"] == "stress" and stress.M > 0
    assert "Stress, apart from the corpus: M = " in out and "  special tokens: " in out
    assert err.count("Written to") == 2
    (tmp_path / "third-stress").mkdir()
    (tmp_path / "third-stress" / "thesis.txt").write_text("mine")
    maxact(*args, "-o", tmp_path / "third", "--stress", code=2, capsys=capsys)
    assert not (tmp_path / "third").exists()


def test_an_m_that_stands_in_an_expert_is_said_to_be_of_no_kind():
    model = tiny("mixtral", num_local_experts=4, num_experts_per_tok=2)
    corpus = Corpus("stress", [Sample(None, [3, 4, 5], "one"), Sample(None, [6, 7], "two")])
    shown = {}
    for sites in ("embedding_output", "layer_*_experts_act"):
        stress = measure(model, Letters(), corpus, sites=["embedding_output", sites])
        console = Console(file=io.StringIO(), width=200)
        print_stress(stress, stress, console)
        shown[sites] = console.file.getvalue()
    assert all("  one: " in text and "  two: " in text for text in shown.values())
    assert "M is an expert's" in shown["layer_*_experts_act"] and "expert" not in shown["embedding_output"]


def test_json_holds_both(model_directory, tmp_path, capsys):  # noqa: F811
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"text": "a b c d"}')
    args = ("measure", model_directory, "--corpus", corpus, "-o", tmp_path / "r", "--stress", "--json")
    record = json.loads(maxact(*args, "--max-length", "32", capsys=capsys)[0])
    stress = record.pop("stress")
    assert record == Run.load(tmp_path / "r").to_json()
    assert stress["M"] == Run.load(tmp_path / "r-stress").M == pytest.approx(max(stress["domains"].values()))
    assert {place["site"] for place in stress["peaks"]} <= set(record["sites"])

"""The published corpus, as a small directory of its shape: LLaMA-2 ids with categories beside other families' ids."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from maxact import corpus as corpora
from maxact.encoding import encode
from maxact.paper_corpus import load_paper_corpus

pytest.importorskip("datasets")
WORDS = ["<s>", "the", "largest", "of", "all", "values", "漢字"]


def save_tokenizer(words, directory):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token=words[0])
    tokenizer.save_pretrained(directory)
    return tokenizer


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "eval_diverse_dataset"
    directory.mkdir()
    rows = [{"input_ids": [0, 1 + i % 6, 2], "category": ["math", "chinese"][i // 20]} for i in range(40)]
    rows[3]["input_ids"] = [1, 99]
    (directory / "eval_diverse_5k_llama2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "eval_diverse_5k_gemma2.jsonl").write_text('{"input_ids": [5, 6]}\n')
    save_tokenizer(WORDS, tmp_path / "llama2")
    return str(directory), str(tmp_path / "llama2")


def test_its_ids_are_decoded_with_their_categories_and_what_is_no_id_is_counted(published):
    corpus = load_paper_corpus(None, *published)
    assert corpus.name == "paper" and len(corpus.samples) == 39
    assert corpus.n_unreadable == 1 and "expected a list of ids from 0 to 6" in corpus.first_fault
    assert sorted({(s.text, s.domain) for s in corpus.samples if s.domain == "math"})[0] == ("<s> all largest", "math")
    assert all(sample.input_ids is None for sample in corpus.samples)


def test_a_limit_takes_of_all_categories_and_always_the_same(published):
    few = load_paper_corpus(10, *published)
    assert {sample.domain for sample in few.samples} == {"math", "chinese"}
    assert few.digest == load_paper_corpus(10, *published).digest
    assert few.samples == load_paper_corpus(None, *published).samples[:10]


def test_every_family_reads_the_same_text_in_its_own_tokens(published, tmp_path):
    corpus = load_paper_corpus(None, *published)
    other = save_tokenizer(["<unk>", "<s>", "values", "all", "of", "largest", "the"], tmp_path / "other")
    ids = encode(corpus, other)
    by_text = {sample.text: list(e.ids) for sample, e in zip(corpus.samples, ids)}
    assert by_text["<s> all largest"] == [1, 3, 5] and by_text["<s> 漢字 largest"] == [1, 0, 5]


def test_it_is_the_corpus_named_paper(published, monkeypatch):
    monkeypatch.setattr(load_paper_corpus, "__defaults__", (None, *published))
    assert corpora.load_corpus("paper", limit=5).samples == load_paper_corpus(5, *published).samples


def test_a_dataset_without_such_a_file_and_a_missing_tokenizer_are_named(published, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected one file of LLaMA-2 ids in .*, found none"):
        load_paper_corpus(None, str(tmp_path / "empty"), published[1])
    with pytest.raises(ValueError, match="tokenizer: .*nowhere.* cannot be loaded"):
        load_paper_corpus(None, published[0], str(tmp_path / "nowhere"))

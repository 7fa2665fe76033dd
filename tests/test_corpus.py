"""Corpora: what is read, what is counted as unreadable and why, and which ids a model is given."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from array import array

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from maxact import corpus as corpora
from maxact import encoding
from maxact.corpus import Corpus, Sample, load_corpus
from maxact.encoding import Encoded, encode


def write(tmp_path, lines, name="c.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return str(path)


def words(bos="<s>", template=None, ends=False):
    """A tokenizer of whole words w0 ... w9 (ids 0 to 9), <s> = 10, </s> = 11, [UNK] = 12."""
    vocabulary = {f"w{i}": i for i in range(10)} | {"<s>": 10, "</s>": 11, "[UNK]": 12}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 10), ("</s>", 11)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token="</s>", unk_token="[UNK]", chat_template=template
    )


def ids(encoded):
    return [list(e.ids) for e in encoded]


def test_builtin_corpus_is_whole_and_varied():
    corpus = load_corpus()
    assert corpus.name == "builtin" and corpus.n_unreadable == 0 and corpus.first_fault is None
    assert len(corpus.samples) >= 96
    assert len({sample.text for sample in corpus.samples}) == len(corpus.samples)
    domains = {sample.domain for sample in corpus.samples}
    assert domains >= {"encyclopedia", "news", "code", "mathematics", "dialogue", "scripts", "legal", "high_entropy"}


def test_limit_takes_the_first_samples():
    assert load_corpus(limit=3).samples == load_corpus().samples[:3]
    with pytest.raises(ValueError, match="^limit: 0, expected at least 1$"):
        load_corpus(limit=0)


def test_same_content_has_the_same_digest_in_another_file(tmp_path):
    samples = [{"text": "grün", "domain": "a"}, {"input_ids": [1, 2]}]
    one = load_corpus(write(tmp_path, samples, "one.jsonl"))
    escaped = b'{"domain": "a",   "text": "gr\\u00fcn"}\r\n\n{"input_ids":[1,2]}'
    other = load_corpus(write(tmp_path, [escaped], "other.jsonl"))
    assert one.samples == other.samples == [Sample("grün", None, "a"), Sample(None, [1, 2], "unlabelled")]
    assert one.digest == other.digest and one.name != other.name


@pytest.mark.parametrize(
    "changed", [{"text": "b", "domain": "x"}, {"text": "a", "domain": "y"}, {"input_ids": [1], "domain": "x"}]
)
def test_other_content_has_another_digest(tmp_path, changed):
    assert (
        load_corpus(write(tmp_path, [changed])).digest
        != load_corpus(write(tmp_path, [{"text": "a", "domain": "x"}])).digest
    )


FAULTS = {
    "not JSON": (b"{nope\n", "not JSON: Expecting property name enclosed in double quotes at column 2"),
    "not an object": ([1, 2], "list, expected an object with text or input_ids"),
    "neither": ({"domain": "a"}, "neither text nor input_ids"),
    "both": ({"text": "a", "input_ids": [1]}, "both text and input_ids, expected one"),
    "text is a number": ({"text": 3}, "text: int, expected a string"),
    "empty text": ({"text": " \n"}, "text: empty"),
    "half a pair": (b'{"text": "\\ud800"}\n', "text: half of a surrogate pair, expected Unicode"),
    "ids are a string": ({"input_ids": "1"}, "input_ids: expected a list of integers"),
    "an id is a float": ({"input_ids": [1.0]}, "input_ids: expected a list of integers"),
    "an id is a bool": ({"input_ids": [True]}, "input_ids: expected a list of integers"),
    "a negative id": ({"input_ids": [3, -1]}, "input_ids: -1, expected 0 or more"),
    "no ids": ({"input_ids": []}, "input_ids: empty"),
    "domain is a list": ({"text": "a", "domain": []}, "domain: list, expected a string"),
    "not UTF-8": (b'{"text": "\xff"}\n', "not UTF-8"),
    "deep": (b'{"text": ' + b"[" * 200_000 + b"\n", "nested too deeply"),
    "a huge number": (b'{"input_ids": [' + b"9" * 5000 + b"]}\n", "not JSON: Exceeds the limit"),
}


@pytest.mark.parametrize("line, reason", FAULTS.values(), ids=FAULTS)
def test_a_bad_line_is_counted_and_the_first_is_remembered(tmp_path, line, reason):
    corpus = load_corpus(write(tmp_path, [{"text": "good"}, line, {"text": "also good"}, {}]))
    assert [sample.text for sample in corpus.samples] == ["good", "also good"]
    assert corpus.n_unreadable == 2
    assert corpus.first_fault.startswith(f"line 2: {reason}")


def test_a_line_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "LONGEST_LINE", 100)
    exact = b'{"text": "' + b"a" * 87 + b'"}\n'
    assert len(exact) == 100
    corpus = load_corpus(write(tmp_path, [exact, {"text": "b" * 1000}, {"text": "after"}, {"text": "c" * 500}]))
    assert [sample.text for sample in corpus.samples] == ["a" * 87, "after"]
    assert corpus.n_unreadable == 2 and corpus.first_fault == "line 2: longer than 100 bytes"


def test_blank_lines_and_a_byte_order_mark_are_no_faults(tmp_path):
    corpus = load_corpus(write(tmp_path, [b"\xef\xbb\xbf", {"text": "a"}, b"\n", b"  \r\n", {"text": "b"}]))
    assert [sample.text for sample in corpus.samples] == ["a", "b"] and corpus.n_unreadable == 0


def test_domain_is_cut_to_64_characters(tmp_path):
    assert load_corpus(write(tmp_path, [{"text": "a", "domain": "d" * 99}])).samples[0].domain == "d" * 64


def test_no_usable_line_is_one_sentence(tmp_path):
    path = write(tmp_path, [b"nope\n", {"text": ""}])
    with pytest.raises(ValueError) as error:
        load_corpus(path)
    assert (
        str(error.value)
        == "corpus: 'c.jsonl' has no usable line: 2 tried, the first at line 1: not JSON: Expecting value at column 1"
    )
    with pytest.raises(ValueError, match=r"^corpus: 'c.jsonl' has no usable line: it is empty$"):
        load_corpus(write(tmp_path, []))


def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^corpus: '.*gone.txt' does not exist$"):
        load_corpus(tmp_path / "gone.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(OSError, match=r"^corpus: '.*folder.txt' cannot be read: Is a directory$"):
        load_corpus(tmp_path / "folder.txt")
    with pytest.raises(ValueError, match=r"^corpus: 'c.csv', expected builtin, paper, a .txt or .jsonl file, or hf:"):
        load_corpus("c.csv")


def test_paragraphs_are_joined_to_400_characters_and_a_short_rest_goes_with_the_last(tmp_path):
    a, b, c, d, e = "a" * 399, "b", "c" * 400, "d\n" * 250 + "d", "e" * 10
    path = write(tmp_path, [f"\n\n{a}\r\n \n\n{b}\n\n{c}\n\n{d}\n\n\n{e}".encode()], "t.txt")
    samples = load_corpus(path).samples
    assert [sample.text for sample in samples] == [f"{a}\n\n{b}", c, f"{d}\n\n{e}"]
    assert {sample.domain for sample in samples} == {"text"}


def test_a_short_text_file_is_one_sample(tmp_path):
    assert [s.text for s in load_corpus(write(tmp_path, [b"one\n\ntwo"], "t.txt")).samples] == ["one\n\ntwo"]


def test_a_line_of_a_text_file_that_is_not_utf8_is_left_out_and_counted(tmp_path):
    corpus = load_corpus(write(tmp_path, [b"one\n\xff\xfe\ntwo\n"], "t.txt"))
    assert corpus.samples[0].text == "one\ntwo"
    assert (corpus.n_unreadable, corpus.first_fault) == (1, "line 2: not UTF-8")


def test_a_dataset_is_streamed_up_to_the_limit(monkeypatch):
    asked, taken = [], []

    def rows():
        for i in range(1000):
            taken.append(i)
            yield {"body": "" if i == 0 else f"row {i}", "domain": None}

    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda *names, **options: asked.append((names, options)) or rows()
    monkeypatch.setitem(sys.modules, "datasets", fake)
    corpus = load_corpus("hf:owner/name/config", limit=2, split="test", text_column="body")
    assert asked == [(("owner/name", "config"), {"split": "test", "streaming": True})]
    assert [sample.text for sample in corpus.samples] == ["row 1", "row 2"] and taken == [0, 1, 2]
    assert (corpus.n_unreadable, corpus.first_fault) == (1, "row 1: text: empty")

    fake.load_dataset = lambda *names, **options: [{"input_ids": [5], "domain": "d"}]
    assert load_corpus("hf:owner/name", limit=9).samples == [Sample(None, [5], "d")]

    def fails(*names, **options):
        raise RuntimeError("no\nnetwork")

    fake.load_dataset = fails
    with pytest.raises(ValueError, match=r"^corpus: 'hf:owner/name' \(split 'train'\) cannot be read: no network$"):
        load_corpus("hf:owner/name", limit=1)


def test_a_dataset_needs_its_package_a_limit_and_an_owner(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package datasets: pip install maxact\[datasets\]$"):
        load_corpus("hf:owner/name", limit=1)
    with pytest.raises(ValueError, match="it needs a limit"):
        load_corpus("hf:owner/name")
    with pytest.raises(ValueError, match="expected hf:OWNER/NAME or hf:OWNER/NAME/CONFIG$"):
        load_corpus("hf:name", limit=1)


def test_nothing_is_put_around_a_text_unless_asked_for():
    corpus = Corpus.from_texts(["w1 w2", "w3"])
    template = "{% for m in messages %}w9 {{ m.content }} </s>{% endfor %}"
    assert encode(corpus, words(ends=True)) == [
        Encoded(array("i", [1, 2]), 0, "unlabelled", False),
        Encoded(array("i", [3]), 1, "unlabelled", False),
    ]
    assert ids(encode(corpus, words(), bos=True)) == [[10, 1, 2], [10, 3]]
    assert ids(encode(corpus, words(ends=True), bos=True)) == [[10, 1, 2], [10, 3]]
    assert ids(encode(corpus, words(ends=True), special_tokens=True)) == [[10, 1, 2, 11], [10, 3, 11]]
    assert ids(encode(corpus, words(ends=True, template=template), chat_template=True)) == [[9, 1, 2, 11], [9, 3, 11]]


def test_ids_pass_through_and_only_bos_is_put_before_them():
    corpus = Corpus("c", [Sample("w1", None, "a"), Sample(None, [7, 8], "b"), Sample("w2", None, "c")])
    assert ids(encode(corpus, words(ends=True), special_tokens=True)) == [[10, 1, 11], [7, 8], [10, 2, 11]]
    assert ids(encode(corpus, words(), bos=True)) == [[10, 1], [10, 7, 8], [10, 2]]
    assert [e.domain for e in encode(corpus, words())] == ["a", "b", "c"]


def test_long_texts_are_cut_and_marked():
    corpus = Corpus.from_texts(["w1 w2 w3", "w1 w2"])
    plain, bos = encode(corpus, words(), max_length=2), encode(corpus, words(), max_length=2, bos=True)
    assert ids(plain) == [[1, 2], [1, 2]] and [e.truncated for e in plain] == [True, False]
    assert ids(bos) == [[10, 1], [10, 1]] and [e.truncated for e in bos] == [True, True]
    assert corpus.samples[0].text == "w1 w2 w3"


def test_what_no_embedding_has_and_what_has_no_token_is_left_out_and_counted():
    samples = [Sample(None, [0, 13], "a"), Sample("​", None, "b"), Sample(None, [12], "c"), Sample(None, [99], "d")]
    tokenizer = words()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("​", "removed")
    encoded = encode(Corpus("c", samples), tokenizer)
    assert encoded == [Encoded(array("i", [12]), 2, "c", False)]
    assert (encoded.n_empty, encoded.n_unreadable) == (1, 2)
    assert encoded.first_fault == "sample 0: id 13, expected 0 to 12"
    assert ids(encode(Corpus("c", samples), tokenizer, n_ids=14)) == [[0, 13], [12]]
    with pytest.raises(ValueError, match=r"no sample this model can read: of 1, 0 .* 1 an id .* sample 0: id 99"):
        encode(Corpus("c", samples[3:]), tokenizer)


def test_many_samples_keep_their_order_and_index():
    n = 2 * encoding._TOKENIZED_AT_ONCE + 3
    mixed = [Sample(None, [i % 10], "x") if i % 3 == 0 else Sample(f"w{i % 10}", None, "x") for i in range(n)]
    assert [(e.index, list(e.ids)) for e in encode(Corpus("c", mixed), words())] == [(i, [i % 10]) for i in range(n)]


def test_options_that_cannot_be_met_are_one_sentence():
    corpus = Corpus.from_texts(["w1"])
    with pytest.raises(ValueError, match=r"^bos and chat_template: choose one"):
        encode(corpus, words(), bos=True, chat_template=True)
    with pytest.raises(ValueError, match=r"^bos: this tokenizer \(.*\) has no BOS token$"):
        encode(corpus, words(bos=None), bos=True)
    with pytest.raises(ValueError, match=r"^chat_template: this tokenizer \(.*\) has no chat template$"):
        encode(corpus, words(), chat_template=True)
    with pytest.raises(ValueError, match=r"^chat_template: this tokenizer's template fails: no user"):
        encode(corpus, words(template="{{ raise_exception('no user') }}"), chat_template=True)
    with pytest.raises(ValueError, match=r"^max_length: 1, expected at least 2$"):
        encode(corpus, words(), bos=True, max_length=1)


def test_reading_a_corpus_does_not_import_torch():
    code = "import sys, maxact.corpus; maxact.corpus.load_corpus(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

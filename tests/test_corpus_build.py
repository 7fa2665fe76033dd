"""A recipe makes the corpus that it says: numbers, lengths and scripts, shuffled, the same bytes each time."""

import json
import random
import sys
import types

import pytest
from test_cli import maxact
from test_paper_corpus import save_tokenizer

from maxact.corpus import load_corpus
from maxact.corpus_build import build_corpus, write_corpus
from maxact.recipe import read_recipe

RECIPE = """
name = "mine"
seed = 7
[lengths]
20 = 0.25
40 = 0.75
[[category]]
domain = "code"
samples = 8
sources = ["src/**/*.py"]
[[category]]
domain = "chinese"
samples = 3
sources = ["rows.jsonl"]
text_column = "body"
script_at_least = { Han = 0.7 }
[[category]]
domain = "web"
samples = 5
sources = ["rows.jsonl"]
text_column = "body"
where = { "meta.set" = ["c4", "cc"] }
"""


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "src" / "deep"
    source.mkdir(parents=True)
    for i in range(40):
        (source / f"m{i}.py").write_text(f"x{i} = {i}\n" * 3)
    (source / "notes.txt").write_text("not asked for")
    (source / ".hidden.py").write_text("not to be read")
    (source / "binary.py").write_bytes(b"\xff\xfe\x00")
    (source / "link.py").symlink_to(tmp_path / "secret.py")
    (tmp_path / "secret.py").write_text("secret")
    rows = [{"body": f"web page {i} " + "w" * 20, "meta": {"set": ["c4", "cc", "books"][i % 3]}} for i in range(30)]
    rows += [{"body": f"第{i}篇文章" + "字" * 20, "meta": {"set": "c4"}} for i in range(10)] + [
        rows[0],
        {"body": " "},
        {},
    ]
    random.Random(0).shuffle(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines + "not json\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_numbers_and_lengths_are_those_of_the_recipe_to_the_sample(folder):
    corpus, manifest = build_corpus(read_recipe(folder / "recipe.toml"))
    domains = [sample.domain for sample in corpus.samples]
    assert {name: domains.count(name) for name in set(domains)} == {"code": 8, "chinese": 3, "web": 5}
    assert sorted(len(sample.text) for sample in corpus.samples) == [20] * 4 + [40] * 12
    assert manifest["domains"]["web"]["target"] == 5 and manifest["n_missing"] == 0
    assert manifest["lengths"] == {
        "20": {"target": 4, "n_samples": 4, "n_short": 0},
        "40": {"target": 12, "n_samples": 12, "n_short": 0},
    }
    assert domains != sorted(domains, key=["code", "chinese", "web"].index)  # not category by category


def test_documents_go_where_they_fit_and_nowhere_twice(folder):
    corpus, manifest = build_corpus(read_recipe(folder / "recipe.toml"))
    texts = {name: [s.text for s in corpus.samples if s.domain == name] for name in ("code", "chinese", "web")}
    assert all("字" in text and "web" not in text for text in texts["chinese"])
    assert all("web page" in text and "字" not in text for text in texts["web"])
    numbers = [int(part.split()[2]) for text in texts["web"] for part in text.split("\n\n") if part.count(" ") > 2]
    assert len(set(numbers)) == len(numbers) and all(i % 3 != 2 for i in numbers)  # "books" is not asked for
    assert not any("secret" in text or "not " in text for text in texts["code"])
    assert manifest["sources"]["src/**/*.py"] == {"documents": 41, "code": 40, "unusable": 1}
    assert manifest["sources"]["rows.jsonl"] == {
        "documents": 44, "chinese": 10, "web": 20, "unfit": 10, "repeated": 1, "unusable": 3
    }  # fmt: skip


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(folder):
    recipe = folder / "recipe.toml"
    for name in ("a.jsonl", "b.jsonl"):
        write_corpus(*build_corpus(read_recipe(recipe)), folder / name)
    assert (folder / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()
    assert (folder / "a.manifest.json").read_bytes() == (folder / "b.manifest.json").read_bytes()
    manifest = json.loads((folder / "a.manifest.json").read_text())
    loaded = load_corpus(folder / "a.jsonl")
    assert loaded.digest == manifest["digest"] and loaded.samples[0].domain in manifest["domains"]
    recipe.write_text(RECIPE.replace("seed = 7", "seed = 8"))
    assert build_corpus(read_recipe(recipe))[0].digest != manifest["digest"]


def test_documents_are_joined_until_the_length_is_reached_or_stand_alone(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace('"src/**/*.py"]', '"src/**/*.py"]\njoin = false'))
    corpus, manifest = build_corpus(read_recipe(folder / "recipe.toml"))
    code = [s.text for s in corpus.samples if s.domain == "code"]
    assert len(code) == 8 and not any("\n\n" in text for text in code)
    assert manifest["domains"]["code"]["n_short"] > 0
    assert any("\n\n" in s.text for s in corpus.samples if s.domain == "web")


def test_sources_that_run_out_give_fewer_samples_which_the_manifest_counts(folder, capsys):
    (folder / "recipe.toml").write_text(RECIPE.replace("samples = 3", "samples = 30"))
    out, err = maxact(
        "corpus", "build", folder / "recipe.toml", "-o", folder / "c.jsonl", "--json", code=1, capsys=capsys
    )
    manifest = json.loads(out)
    assert manifest["domains"]["chinese"]["n_samples"] < 30 and manifest["n_missing"] > 0
    assert f"{manifest['n_missing']} samples are missing" in err
    assert manifest == json.loads((folder / "c.manifest.json").read_text())


def test_lengths_in_tokens_are_those_of_the_tokenizer(folder, capsys):
    words = save_tokenizer(["<unk>", "<s>", "web", "page", *map(str, range(30))], folder / "tokenizer")
    (folder / "recipe.toml").write_text(
        f'tokenizer = "{folder / "tokenizer"}"\n[lengths]\n3 = 0.5\n9 = 0.5\n[[category]]\ndomain = "web"\n'
        'samples = 4\nsources = ["rows.jsonl"]\ntext_column = "body"\nwhere = { "meta.set" = ["c4", "cc"] }\n'
    )
    maxact("corpus", "build", folder / "recipe.toml", "-o", folder / "c.jsonl", capsys=capsys)
    lengths = [len(words(sample.text)["input_ids"]) for sample in load_corpus(folder / "c.jsonl").samples]
    assert sorted(lengths) == [3, 3, 9, 9]


def test_each_dataset_gives_its_share_and_is_read_no_further(tmp_path, monkeypatch):
    read, asked = [], []

    def load_dataset(name, **options):
        asked.append((name, options))

        class Stream(list):
            def shuffle(self, seed, buffer_size):
                assert seed == 5
                return (read.append(name) or {"text": f"{name} {i}"} for i in range(10_000))

        return Stream()

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (tmp_path / "r.toml").write_text(
        'seed = 5\nlengths = { 100 = 1 }\n[[category]]\ndomain = "d"\nsamples = 2\njoin = false\n'
        'documents = 10\nsources = ["hf:a/one", "hf:b/two"]\nsplit = "test"\n'
    )
    corpus, manifest = build_corpus(read_recipe(tmp_path / "r.toml"))
    assert read.count("a/one") == read.count("b/two") == 5 and len(corpus.samples) == 2
    assert asked == [(name, {"split": "test", "streaming": True}) for name in ("a/one", "b/two")]


def test_the_recipe_of_the_paper_has_its_numbers():
    recipe = read_recipe("paper")
    assert {c.domain: c.samples for c in recipe.categories} == {
        "math": 850, "code": 850, "web": 850, "knowledge": 850, "chinese": 400, "minority": 300, "other": 900
    }  # fmt: skip
    assert recipe.lengths == {256: 0.01, 512: 0.01, 1024: 0.02, 2048: 0.03, 4096: 0.93} and recipe.n_samples == 5000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("seed = 7", "sed = 7"), "sed: not a key of a recipe"),
        (("seed = 7", 'seed = "7"'), "seed: '7', expected a whole number"),
        (("20 = 0.25", "20 = 0.5"), "add up to 1"),
        (("20 = 0.25", "x = 0.25"), "lengths: expected shares by length"),
        (("samples = 8", "samples = 0"), "category 1: samples: 0, expected at least 1"),
        (('domain = "web"', 'domain = "code"'), "expected each once"),
        (("Han = 0.7", "Hann = 0.7"), "category 2: script: 'Hann' is not a script"),
        (("Han = 0.7", "Han = 70"), "Han = 70, expected a number of 0 to 1"),
        (('"src/**/*.py"', '"hf:name"'), "'hf:name', expected hf:OWNER/NAME"),
        (('"src/**/*.py"', '"src/**/*.rs"'), r"sources: 'src/\*\*/\*.rs' has no files"),
        (('where = { "meta.set" = ["c4", "cc"] }', 'where = { set = "c4" }'), "expected a list of allowed values"),
        (("[lengths]", "[lengths"), "not readable as TOML"),
        (('name = "mine"', "name = 3"), "name: 3, expected a text"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_with_its_key_and_nothing_is_written(folder, change, sentence, capsys):
    assert change[0] in RECIPE
    (folder / "recipe.toml").write_text(RECIPE.replace(*change))
    with pytest.raises(ValueError, match=sentence):
        build_corpus(read_recipe(folder / "recipe.toml"))
    maxact("corpus", "build", folder / "recipe.toml", "-o", folder / "c.jsonl", code=2, capsys=capsys)
    assert not (folder / "c.jsonl").exists()


def test_the_command_overwrites_nothing_unasked(folder, capsys):
    (folder / "c.jsonl").write_text("mine")
    args = ("corpus", "build", folder / "recipe.toml", "-o", folder / "c.jsonl")
    _, err = maxact(*args, code=2, capsys=capsys)
    assert "--overwrite" in err and (folder / "c.jsonl").read_text() == "mine"
    out, _ = maxact(*args, "--overwrite", capsys=capsys)
    assert "'code': 8 of 8 samples" in out and load_corpus(folder / "c.jsonl").digest in out
    _, err = maxact("corpus", "build", "nothing.toml", "-o", folder / "d.jsonl", code=2, capsys=capsys)
    assert "'nothing.toml' does not exist, and is not paper" in err
    assert "Example: maxact corpus build" in maxact("corpus", "build", "--help", capsys=capsys)[0]

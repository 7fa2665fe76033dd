"""Tokens of a text, special tokens and those of a chat template are told apart, and each kind is measured on its own."""

from __future__ import annotations

import pytest
import torch
from test_corpus import words
from tiny_models import N_LAYERS, one_thread, tiny  # noqa: F401

from maxact import measure
from maxact.corpus import Corpus, Sample
from maxact.encoding import encode
from maxact.hooks import attach
from maxact.token_kinds import CONTENT, EITHER, SPECIAL, TEMPLATE, special_ids

pytestmark = pytest.mark.usefixtures("one_thread")

TURN = "{% for m in messages %}<s> w9 w8 {{ m.content }} w7 </s>{% endfor %}"
TEXTS = ["w1 w2", "w3"]


def kinds(corpus, tokenizer, **options) -> list[list[int]]:
    return [list(sample.kinds) for sample in encode(corpus, tokenizer, **options)]


def test_words_puts_its_tokens_where_these_tests_say():
    corpus = Corpus.from_texts(TEXTS)
    assert [list(e.ids) for e in encode(corpus, words(template=TURN), chat_template=True)][1] == [10, 9, 8, 3, 7, 11]


def test_a_text_alone_is_of_one_kind_and_nothing_is_kept_of_it():
    encoded = encode(Corpus.from_texts(TEXTS), words(ends=True))
    assert [e.kinds for e in encoded] == [b"", b""] and encoded.kinds() == ()


def test_special_tokens_around_a_text():
    corpus = Corpus.from_texts(TEXTS)
    assert kinds(corpus, words(), bos=True) == [[SPECIAL, CONTENT, CONTENT], [SPECIAL, CONTENT]]
    ends = [[SPECIAL, CONTENT, CONTENT, SPECIAL], [SPECIAL, CONTENT, SPECIAL]]
    assert kinds(corpus, words(ends=True), special_tokens=True) == ends


def test_special_tokens_that_a_text_or_a_sample_of_ids_holds():
    corpus = Corpus("c", [Sample("w1 </s> w2", None, "a"), Sample(None, [3, 11], "b"), Sample("w1", None, "c")])
    encoded = encode(corpus, words())
    assert [list(e.kinds) for e in encoded] == [[CONTENT, SPECIAL, CONTENT], [CONTENT, SPECIAL], []]
    assert encoded.kinds() == (CONTENT, SPECIAL)


def test_a_chat_template_is_told_from_its_text_also_where_they_have_the_same_words():
    corpus = Corpus.from_texts(["w1 w2", "w9 w8", "w7"])
    around = [SPECIAL, TEMPLATE, TEMPLATE], [TEMPLATE, SPECIAL]
    expected = [[*around[0], *[CONTENT] * n, *around[1]] for n in (2, 2, 1)]
    assert kinds(corpus, words(template=TURN), chat_template=True) == expected


def test_what_is_cut_off_has_no_kind():
    assert kinds(Corpus.from_texts(TEXTS), words(template=TURN), chat_template=True, max_length=4) == [
        [SPECIAL, TEMPLATE, TEMPLATE, CONTENT],
        [SPECIAL, TEMPLATE, TEMPLATE, CONTENT],
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<s> {{ m.content }} w7 {{ m.content }}{% endfor %}",  # twice
        "{% for m in messages %}<s> {{ m.content | replace('w', 'w1 w') }}{% endfor %}",  # not as it is
        "{% for m in messages %}<s> {{ m.content | reverse | join }}{% endfor %}",
        "{% for m in messages %}<s> w7{% endfor %}",  # not at all
    ],
)
def test_where_a_template_does_not_put_the_text_once_as_it_is_no_claim_is_made(template):
    found = kinds(Corpus.from_texts(TEXTS), words(template=template), chat_template=True)
    assert all(sample == [SPECIAL, *[EITHER] * (len(sample) - 1)] for sample in found)


def test_a_tokenizer_that_does_not_say_which_characters_a_token_has_makes_no_claim():
    class Slow:
        """words(), with what a tokenizer written in Python does not have taken away."""

        is_fast = False

        def __init__(self, tokenizer):
            self._tokenizer = tokenizer

        def __getattr__(self, name):
            return getattr(self._tokenizer, name)

        def __len__(self):
            return len(self._tokenizer)

        def __call__(self, texts, **options):
            assert "return_offsets_mapping" not in options
            return self._tokenizer(texts, **options)

    found = kinds(Corpus.from_texts(TEXTS), Slow(words(template=TURN)), chat_template=True)
    assert found == [[SPECIAL, *[EITHER] * n, SPECIAL] for n in (5, 4)]


def test_the_unknown_token_stands_for_a_text_unless_it_is_more_than_that():
    tokenizer = words()
    tokenizer.unk_token = "w5"
    assert tokenizer.unk_token_id not in special_ids(tokenizer)
    tokenizer.eos_token = "w5"
    assert tokenizer.unk_token_id in special_ids(tokenizer)


def test_a_run_measures_each_kind_as_attach_does_with_these_groups():
    model, tokenizer = tiny("llama"), words(template=TURN)
    corpus = Corpus.from_texts(TEXTS)
    run = measure(model, tokenizer, corpus, chat_template=True, tokens_per_batch=7)  # batches of one sample
    found = run.groups()
    assert set(found) == {"position_0", "content", "special", "template"}
    assert {group: sites["layer_0_hidden"]["n_tokens"] for group, sites in found.items()} == {
        "position_0": 2, "content": 3, "special": 4, "template": 6,
    }  # fmt: skip
    with torch.no_grad(), attach(model, position_0=True) as probe:
        for sample in encode(corpus, tokenizer, chat_template=True):
            codes = torch.tensor([list(sample.kinds)])
            names = {"content": codes == CONTENT, "special": codes == SPECIAL, "template": codes == TEMPLATE}
            probe.batch(groups=names)
            model.model(torch.tensor([list(sample.ids)]), attention_mask=torch.ones_like(codes))
    assert probe.groups() == found
    whole = max(run.sites[f"layer_{i}_hidden"].absmax for i in range(N_LAYERS))
    assert max(n["absmax"] for group in ("content", "special", "template") for n in found[group].values()) == whole

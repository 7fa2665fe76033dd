"""From a corpus to token ids: what is put around each text, where it is cut, and what each token is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .corpus import Corpus, Sample
from .token_kinds import CONTENT, ChatTemplate, special_ids, with_special

_TOKENIZED_AT_ONCE = 256  # a tokenizer's answer is some hundred bytes a token: not for the whole corpus at a time


class Encoded(NamedTuple):
    """What a model is given: ids, never empty; the index of the sample in its corpus; whether ids were cut; what each
    token is (codes of `token_kinds`), or nothing if all are the text's."""

    ids: Sequence[int]  # as `encode` makes it an array of 4 bytes a token, where a list takes 36
    index: int
    domain: str
    truncated: bool
    kinds: bytes = b""


class EncodedCorpus(list[Encoded]):
    """A list, with what was left out: n_empty samples without a token, n_unreadable with ids no embedding has."""

    n_empty: int = 0
    n_unreadable: int = 0
    first_fault: str | None = None

    def kinds(self) -> tuple[int, ...]:
        """Codes of all kinds of tokens that there are, in order; () if all are the texts'."""
        found = {code for sample in self for code in set(sample.kinds) or {CONTENT}}
        return tuple(sorted(found)) if found != {CONTENT} else ()


def encode(
    corpus: Corpus,
    tokenizer: Any,
    *,
    max_length: int = 2048,
    special_tokens: bool = False,
    bos: bool = False,
    chat_template: bool = False,
    n_ids: int | None = None,
) -> EncodedCorpus:
    """The token ids of each sample, cut to `max_length`; nothing is put around a text unless asked for.

    bos: the tokenizer's BOS id in front, also of samples that are ids already. special_tokens: what the tokenizer adds
    by itself. chat_template: the text as one user turn. At most one of them. A special token that a text spells out is
    read as that token. n_ids: ids from 0 to n_ids - 1 are possible (rows of the embedding; default: the tokenizer's
    length); a sample with another is left out and counted, as is one without a token. Raises ValueError.
    """
    around = {"bos": bos, "special_tokens": special_tokens, "chat_template": chat_template}
    chosen = [name for name, on in around.items() if on]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)}: choose one, each decides alone what is put around a text")
    if max_length < 1 + bos:
        raise ValueError(f"max_length: {max_length}, expected at least {1 + bos}")
    if bos and tokenizer.bos_token_id is None:
        raise ValueError(f"bos: this tokenizer ({type(tokenizer).__name__}) has no BOS token")
    if chat_template and not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"chat_template: this tokenizer ({type(tokenizer).__name__}) has no chat template")
    n_ids = len(tokenizer) if n_ids is None else n_ids
    front = [tokenizer.bos_token_id] if bos else []
    special = special_ids(tokenizer)

    encoded = EncodedCorpus()
    template = ChatTemplate(tokenizer) if chat_template else None
    for index, (ids, kinds) in enumerate(_tokenize(corpus.samples, tokenizer, special_tokens, template)):
        if not ids:
            encoded.n_empty += 1
        elif not 0 <= min(ids) <= max(ids) < n_ids:
            encoded.n_unreadable += 1
            wrong = next(i for i in ids if not 0 <= i < n_ids)
            encoded.first_fault = encoded.first_fault or f"sample {index}: id {wrong}, expected 0 to {n_ids - 1}"
        else:
            whole = front + ids
            kinds = with_special(whole, bytes(len(front)) + (kinds or bytes(len(ids))), special)[:max_length]
            domain = corpus.samples[index].domain
            cut = len(whole) > max_length
            encoded.append(Encoded(array("i", whole[:max_length]), index, domain, cut, kinds if any(kinds) else b""))
    if not encoded:
        fault = f", the first at {encoded.first_fault}" if encoded.first_fault else ""
        raise ValueError(
            f"corpus: {corpus.name!r} has no sample this model can read: of {len(corpus.samples)}, {encoded.n_empty} "
            f"have no token and {encoded.n_unreadable} an id outside the vocabulary{fault}"
        )
    return encoded


def _tokenize(
    samples: list[Sample], tokenizer: Any, special_tokens: bool, template: ChatTemplate | None
) -> Iterator[tuple[list[int], bytes | None]]:
    """The ids of each sample, and what its tokens are where a template stands around its text."""
    options = dict(add_special_tokens=special_tokens, return_attention_mask=False, verbose=False)
    if template is not None and template.can_place:
        options["return_offsets_mapping"] = True
    for start in range(0, len(samples), _TOKENIZED_AT_ONCE):
        part = samples[start : start + _TOKENIZED_AT_ONCE]
        texts = [sample.text for sample in part if sample.text is not None]
        if template is not None:
            turns = [template.turn(text) for text in texts]
            texts = [turn.text for turn in turns]
        tokenized = tokenizer(texts, **options) if texts else {"input_ids": ()}
        row = -1
        for sample in part:
            if sample.text is None:
                yield sample.input_ids, None
                continue
            row += 1
            ids, kinds = tokenized["input_ids"][row], None
            if template is not None:
                kinds = template.kinds(turns[row], len(ids), tokenized.get("offset_mapping", {row: None})[row])
            yield ids, kinds

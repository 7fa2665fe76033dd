"""Texts and token ids to measure a model on. Files are untrusted: a line that cannot be used is counted, not fatal."""

from __future__ import annotations

import hashlib
import importlib.resources
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from .hub_dataset import dataset_rows

DEFAULT_DOMAIN = "unlabelled"
LONGEST_DOMAIN = 64  # characters
LONGEST_LINE = 16 * 2**20  # bytes: two million tokens as JSON; without a bound one line could fill the memory
SHORTEST_TEXT = 400  # characters of a sample from a .txt file: the shortest of the built-in samples has 418


Item = tuple[str, Any, str | None]  # where it stands, the row, or why there is none


class Sample(NamedTuple):
    """One text, or one sequence of token ids: the other is None."""

    text: str | None
    input_ids: list[int] | None
    domain: str


@dataclass
class Corpus:
    """Samples in their order. digest: sha256 over them, the same wherever and in whatever file the same content lies.

    n_unreadable: lines that could not be used; first_fault: number of the first such line, and why.
    """

    name: str
    samples: list[Sample]
    n_unreadable: int = 0
    first_fault: str | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(json.dumps([sample.domain, sample.text, sample.input_ids]).encode() + b"\n")
        self.digest = digest.hexdigest()

    @classmethod
    def from_texts(cls, texts: Sequence[str], name: str = "texts") -> Corpus:
        """A corpus of texts in memory. Raises ValueError as a file would."""
        return gather(name, ((f"text {i}", {"text": text}, None) for i, text in enumerate(texts)), None)


class _Fault(ValueError):
    """Why a line cannot be used."""


def load_corpus(
    source: str | os.PathLike = "builtin", *, limit: int | None = None, split: str = "train", text_column: str = "text"
) -> Corpus:
    """Read a corpus; the first `limit` usable samples of it.

    - `builtin`: the texts that come with maxact.
    - `paper`: the 5,000 samples of arXiv 2605.15572, from the hub (`load_paper_corpus`).
    - a .jsonl file: on each line an object with `text` or `input_ids`, and a `domain` if it has one.
    - a .txt file (UTF-8). Lines without a blank one between them are a paragraph. Paragraphs are joined in their order,
      by one blank line, until a sample has at least 400 characters; a shorter rest goes with the sample before it.
    - `hf:OWNER/NAME` or `hf:OWNER/NAME/CONFIG`: a dataset from the hub, streamed, so it needs a limit. Its column
      `text_column` is read, else `input_ids`; and `domain`. Only here do `split` and `text_column` matter.

    Raises ValueError or OSError of one sentence, also when no line can be used.
    """
    source = os.fspath(source)
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit}, expected at least 1")
    if source == "builtin":
        with importlib.resources.files("maxact").joinpath("corpus.jsonl").open("rb") as file:
            return gather(source, jsonl_rows(file), limit)
    if source == "paper":
        from .paper_corpus import load_paper_corpus

        return load_paper_corpus(limit)
    if source.startswith("hf:"):
        return gather(source, _dataset(source, limit, split, text_column), limit)
    read = {".jsonl": jsonl_rows, ".txt": _paragraphs}.get(os.path.splitext(source)[1].lower())
    if read is None:
        raise ValueError(f"corpus: {source!r}, expected builtin, paper, a .txt or .jsonl file, or hf:OWNER/NAME")
    try:
        with open(os.path.expanduser(source), "rb") as file:
            return gather(os.path.basename(source), read(file), limit)
    except FileNotFoundError:
        raise FileNotFoundError(f"corpus: {source!r} does not exist") from None
    except OSError as error:
        raise OSError(f"corpus: {source!r} cannot be read: {error.strerror or error}") from error


def gather(name: str, items: Iterable[Item], limit: int | None) -> Corpus:
    samples: list[Sample] = []
    n_items = n_faults = 0
    first_fault = None
    for where, row, fault in items:
        n_items += 1
        try:
            if fault is not None:
                raise _Fault(fault)
            samples.append(_sample(row))
        except _Fault as error:
            n_faults += 1
            first_fault = first_fault or f"{where}: {error}"
        if len(samples) == limit:
            break
    if not samples:
        why = f": {n_items} tried, the first at {first_fault}" if first_fault else ": it is empty"
        raise ValueError(f"corpus: {name!r} has no usable line{why}")
    return Corpus(name, samples, n_faults, first_fault)


def _sample(row: Any) -> Sample:
    if not isinstance(row, dict):
        raise _Fault(f"{type(row).__name__}, expected an object with text or input_ids")
    text, ids, domain = row.get("text"), row.get("input_ids"), row.get("domain")
    if (text is None) == (ids is None):
        raise _Fault("neither text nor input_ids" if text is None else "both text and input_ids, expected one")
    if domain is not None and not isinstance(domain, str):
        raise _Fault(f"domain: {type(domain).__name__}, expected a string")
    if text is not None:
        if not isinstance(text, str):
            raise _Fault(f"text: {type(text).__name__}, expected a string")
        if not text.strip():
            raise _Fault("text: empty")
        if not is_unicode(text):
            raise _Fault("text: half of a surrogate pair, expected Unicode")
    else:
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise _Fault("input_ids: expected a list of integers")
        if not ids:
            raise _Fault("input_ids: empty")
        if min(ids) < 0:
            raise _Fault(f"input_ids: {min(ids)}, expected 0 or more")
    domain = (domain or "").strip()[:LONGEST_DOMAIN]
    return Sample(text, ids, domain if domain and is_unicode(domain) else DEFAULT_DOMAIN)


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: IO[bytes]) -> Iterator[tuple[str, str, str | None]]:
    """Each line as (where, text, fault); a longer one than LONGEST_LINE is passed over without being kept."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        where = f"line {number}"
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield where, "", f"longer than {LONGEST_LINE} bytes"
            continue
        try:
            yield where, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"), None
        except UnicodeDecodeError:
            yield where, "", "not UTF-8"


def jsonl_rows(file: IO[bytes]) -> Iterator[Item]:
    for where, line, fault in _lines(file):
        if fault is not None:
            yield where, None, fault
        elif line.strip():
            try:
                row = json.loads(line)
            except RecursionError:
                yield where, None, "nested too deeply"
            except ValueError as error:
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                yield where, None, f"not JSON: {reason}"
            else:
                yield where, row, None


def _paragraphs(file: IO[bytes]) -> Iterator[Item]:
    paragraphs, lines, samples = [], [], []
    for where, line, fault in itertools.chain(_lines(file), [("the end", "", None)]):
        if fault is not None:
            yield where, None, fault
        elif line.strip():
            lines.append(line)
        elif lines:
            paragraphs.append("\n".join(lines))
            lines = []
    for paragraph in paragraphs:
        if samples and len(samples[-1]) < SHORTEST_TEXT:
            samples[-1] += "\n\n" + paragraph
        else:
            samples.append(paragraph)
    if len(samples) > 1 and len(samples[-1]) < SHORTEST_TEXT:
        rest = samples.pop()
        samples[-1] += "\n\n" + rest
    for number, text in enumerate(samples, 1):
        yield f"sample {number}", {"text": text, "domain": "text"}, None


def _dataset(source: str, limit: int | None, split: str, text_column: str) -> Iterator[Item]:
    owner, *rest = source.removeprefix("hf:").split("/", 2)
    if not owner or not rest or not all(rest):
        raise ValueError(f"corpus: {source!r}, expected hf:OWNER/NAME or hf:OWNER/NAME/CONFIG")
    if limit is None:
        raise ValueError(f"corpus: {source!r} is streamed and may never end: it needs a limit (--limit 1000)")
    rows = dataset_rows(source, f"{owner}/{rest[0]}", *rest[1:], split=split)
    for number, row in enumerate(rows, 1):
        content = {"text": row[text_column]} if text_column in row else {"input_ids": row.get("input_ids")}
        yield f"row {number}", {**content, "domain": row.get("domain")}, None

"""Makes a fixed corpus from a recipe: documents are chosen, joined and cut to lengths, and shuffled, all by its seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from maxact_kernels.storage import write_atomically

from . import __version__
from .corpus import LONGEST_LINE, Corpus, Sample, is_unicode, jsonl_rows
from .hub_dataset import dataset_rows
from .proportion import proportional
from .recipe import Category, Recipe
from .scripts import script_share

_CHARACTERS_PER_TOKEN = 16  # more than tokenizers reach on prose: what a document is cut to before its tokens are known

Cut = Callable[[str, int], tuple[str, int]]


def build_corpus(recipe: Recipe, tokenizer=None, on_note: Callable[[str], None] | None = None) -> tuple[Corpus, dict]:
    """The corpus of a recipe and its manifest: what was wanted, found and read, and the corpus's digest.

    tokenizer: for lengths in tokens; a fast one. The same recipe, tokenizer and sources give the same bytes. A document
    is never used twice: where they run out there are fewer samples, or shorter ones, and the manifest counts them.
    Raises ValueError or OSError.
    """
    note = on_note or (lambda sentence: None)
    cut = _by_tokens(tokenizer) if tokenizer is not None else _by_characters
    pools = _Pools(recipe, max(recipe.lengths) * (_CHARACTERS_PER_TOKEN if tokenizer is not None else 1))
    for source, split in dict.fromkeys((source, c.split) for c in recipe.categories for source in c.sources):
        note(f"reading {source}")
        pools.read(source, split)

    # Lengths are dealt out over the whole corpus, so that their shares hold to the sample.
    dealt = [length for length, n in _numbers(recipe).items() for _ in range(n)]
    random.Random(f"{recipe.seed}/lengths").shuffle(dealt)
    made: list[tuple[Sample, int, int]] = []  # with the length it was to have and the one it has
    for category in recipe.categories:
        lengths, dealt = dealt[: category.samples], dealt[category.samples :]
        documents = iter(pools.of(category))
        for length in lengths:
            text, n = _compose(documents, length, category.join, cut)
            if text:
                made.append((Sample(text, None, category.domain), length, n))
    if not made:
        raise ValueError(f"recipe: no source of {recipe.name!r} has a document that fits its category")
    random.Random(f"{recipe.seed}/order").shuffle(made)
    corpus = Corpus(recipe.name, [sample for sample, _, _ in made])
    return corpus, _manifest(recipe, corpus, made, pools)


def write_corpus(corpus: Corpus, manifest: dict, path: Path) -> Path:
    """Write a .jsonl file and, beside it, its manifest, whose path is returned. Raises OSError."""
    rows = [json.dumps({"text": s.text, "domain": s.domain}, ensure_ascii=False) for s in corpus.samples]
    beside = path.with_suffix(".manifest.json")
    write_atomically(path, ("\n".join(rows) + "\n").encode())
    write_atomically(beside, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return beside


class _Pools:
    """For each category a uniform choice of the documents that fit it; a document goes to the first that it fits."""

    def __init__(self, recipe: Recipe, longest: int):
        self.recipe, self.longest = recipe, longest
        self.n_read: dict[str, Counter] = {}  # by source: documents, those that went to each domain, and the others
        self._pools: dict[str, list[str]] = {category.domain: [] for category in recipe.categories}
        self._n_fit = Counter()
        self._random = {c.domain: random.Random(f"{recipe.seed}/{c.domain}") for c in recipe.categories}
        self._seen: set[bytes] = set()

    def read(self, source: str, split: str) -> None:
        takers = [c for c in self.recipe.categories if source in c.sources and c.split == split]
        counter = self.n_read[source] = Counter(documents=0)
        endless = source.startswith("hf:")
        for row in _rows(source, takers, self.recipe):
            counter["documents"] += 1
            counter["unusable" if row is None else self._offer(row, takers)] += 1
            full = all(counter[c.domain] * len(c.sources) >= c.documents for c in takers)  # each source gives its share
            if endless and (full or counter["documents"] >= self.recipe.rows):
                break

    def of(self, category: Category) -> list[str]:
        """The chosen documents in a random order."""
        pool = self._pools[category.domain]
        self._random[category.domain].shuffle(pool)
        return pool

    def _offer(self, row: dict, takers: list[Category]) -> str:
        """Where a document went: a domain, or why to none."""
        for category in takers:
            text = row.get(category.text_column)
            if not isinstance(text, str) or not text.strip() or not is_unicode(text):
                return "unusable"
            text = text[: self.longest]
            if not _fits(row, text, category):
                continue
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if digest in self._seen:
                return "repeated"
            self._seen.add(digest)
            pool, chance = self._pools[category.domain], self._random[category.domain]
            self._n_fit[category.domain] += 1
            if len(pool) < category.documents:
                pool.append(text)
            else:  # reservoir sampling, J. S. Vitter 1985, algorithm R
                place = chance.randrange(self._n_fit[category.domain])
                if place < category.documents:
                    pool[place] = text
            return category.domain
        return "unfit"


def _fits(row: dict, text: str, category: Category) -> bool:
    for column, allowed in category.where.items():
        value = row
        for name in column.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value not in allowed:
            return False
    return all(script_share(text, script) >= share for script, share in category.script_at_least.items()) and all(
        script_share(text, script) <= share for script, share in category.script_at_most.items()
    )


def _rows(source: str, takers: list[Category], recipe: Recipe) -> Iterator[dict | None]:
    """The documents of a source as rows; None for one that cannot be read."""
    if source.startswith("hf:"):
        owner, name, *config = source.removeprefix("hf:").split("/", 2)
        yield from dataset_rows(source, f"{owner}/{name}", *config, split=takers[0].split, shuffle_seed=recipe.seed)
        return
    for path in _files(source, recipe.folder):
        if path.suffix.lower() == ".jsonl":
            with open(path, "rb") as file:
                for _, row, fault in jsonl_rows(file):
                    yield row if fault is None and isinstance(row, dict) else None
        else:
            with open(path, "rb") as file:
                data = file.read(LONGEST_LINE)
            try:
                yield dict.fromkeys((category.text_column for category in takers), data.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield None


def _files(source: str, folder: Path) -> list[Path]:
    """The files of a source, by name; nothing hidden, and no link is followed. Raises ValueError if there are none."""
    given = Path(source).expanduser()
    if (folder / given).is_file():
        return [folder / given]
    if (folder / given).is_dir():
        base, pattern = folder / given, "**/*"
    else:
        parts = given.parts
        first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
        base, pattern = folder / Path(*parts[:first]), str(Path(*parts[first:]))
    found = []
    for file in sorted(base.glob(pattern)):
        below = file.relative_to(base).parts
        links = any((base / Path(*below[: i + 1])).is_symlink() for i in range(len(below)))
        if file.is_file() and not links and not any(part.startswith(".") for part in below):
            found.append(file)
    if not found:
        raise ValueError(f"sources: {source!r} has no files; a relative name begins at the recipe")
    return found


def _compose(documents: Iterator[str], length: int, join: bool, cut: Cut) -> tuple[str, int]:
    """The next sample: documents until it has its length, then cut. No text where the documents are used up."""
    parts: list[str] = []
    text, n = "", 0
    for document in documents:
        parts.append(document)
        text, n = cut("\n\n".join(parts), length)
        if n >= length or not join:
            break
    return text, n


def _by_characters(text: str, length: int) -> tuple[str, int]:
    return text[:length], min(len(text), length)


def _by_tokens(tokenizer) -> Cut:
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} is not a fast one, which tells where in the text a token is"
        )

    def cut(text: str, length: int) -> tuple[str, int]:
        options = dict(
            add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        offsets = tokenizer(text, **options)["offset_mapping"]
        return (text, len(offsets)) if len(offsets) <= length else (text[: offsets[length - 1][1]], length)

    return cut


def _numbers(recipe: Recipe) -> dict[int, int]:
    """How many samples are to have which length."""
    shares = {length: round(share * 10**9) for length, share in recipe.lengths.items()}
    return proportional(shares, recipe.n_samples)


def _manifest(recipe: Recipe, corpus: Corpus, made: list[tuple[Sample, int, int]], pools: _Pools) -> dict:
    domains, lengths = {}, {}
    for category in recipe.categories:
        of_it = [(length, n) for sample, length, n in made if sample.domain == category.domain]
        domains[category.domain] = {
            "target": category.samples,
            "n_samples": len(of_it),
            "n_short": sum(n < length for length, n in of_it),
            "total_length": sum(n for _, n in of_it),
        }
    for length, target in _numbers(recipe).items():
        of_it = [n for _, wanted, n in made if wanted == length]
        lengths[str(length)] = {"target": target, "n_samples": len(of_it), "n_short": sum(n < length for n in of_it)}
    return {
        "name": recipe.name,
        "digest": corpus.digest,
        "n_samples": len(corpus.samples),
        "n_missing": recipe.n_samples - len(corpus.samples),
        "length_in": f"tokens of {recipe.tokenizer}" if recipe.tokenizer else "characters",
        "domains": domains,
        "lengths": lengths,
        "sources": {source: dict(counter) for source, counter in pools.n_read.items()},
        "recipe": recipe.written,
        "maxact": __version__,
    }

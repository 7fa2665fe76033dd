"""A recipe: what a corpus is made of. TOML; every key is checked before anything is read."""

from __future__ import annotations

import importlib.resources
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from .corpus import LONGEST_DOMAIN
from .scripts import script_share

BUILT_IN = ("paper",)
LONGEST = 1_000_000  # units of a sample
_IN_WORDS = {str: "a text", int: "a whole number", bool: "true or false", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class Category:
    """One domain: how many samples, from which documents.

    sources: folders, patterns (`src/**/*.py`), files, or `hf:OWNER/NAME[/CONFIG]`. In a .jsonl file and a dataset each
    row is a document, in its `text_column`; any other file is one. where: {column: allowed values}, a dot enters a
    nested column. script_at_least, script_at_most: {script: share of the document's letters}. join: documents follow
    one another, parted by an empty line, until a sample has its length; without it a sample is one document.
    documents: so many are chosen from (default 20 a sample).
    """

    domain: str
    samples: int
    sources: tuple[str, ...]
    text_column: str = "text"
    split: str = "train"
    where: dict[str, list] = field(default_factory=dict)
    script_at_least: dict[str, float] = field(default_factory=dict)
    script_at_most: dict[str, float] = field(default_factory=dict)
    join: bool = True
    documents: int = 0


@dataclass(frozen=True)
class Recipe:
    """lengths: {longest length of a sample: share of the samples}, in tokens of `tokenizer`, else in characters.

    rows: so many rows of a dataset from the hub are read at most. folder: where relative sources begin. written: the
    recipe as it was written, for the manifest.
    """

    name: str
    seed: int
    lengths: dict[int, float]
    categories: tuple[Category, ...]
    tokenizer: str | None
    rows: int
    folder: Path
    written: dict

    @property
    def n_samples(self) -> int:
        return sum(category.samples for category in self.categories)


def read_recipe(name: str | os.PathLike) -> Recipe:
    """Read a recipe file, or `paper`, which comes with maxact. Raises OSError, or ValueError that names the key."""
    if os.fspath(name) in BUILT_IN:
        data = importlib.resources.files("maxact").joinpath(f"recipe_{name}.toml").read_bytes()
        path = Path(f"{name}.toml")
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"recipe: {os.fspath(name)!r} does not exist, and is not {' or '.join(BUILT_IN)}")
        data = path.read_bytes()
    try:
        written = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: not readable as TOML: {error}") from None
    try:
        return _recipe(written, path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _recipe(written: dict, path: Path) -> Recipe:
    _known(written, {"name", "seed", "tokenizer", "rows", "lengths", "category"})
    lengths = _take(written, "lengths", dict)
    if not lengths or not all(key.isascii() and key.isdigit() and 0 < int(key) <= LONGEST for key in lengths):
        raise ValueError(f"lengths: expected shares by length, as 4096 = 0.93, of 1 to {LONGEST:,}")
    if not all(_is_share(share) for share in lengths.values()) or abs(sum(lengths.values()) - 1) > 1e-9:
        raise ValueError(f"lengths: shares {list(lengths.values())}, expected numbers of 0 to 1 that add up to 1")
    tables = _take(written, "category", list)
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise ValueError("category: expected at least one [[category]]")
    categories = []
    for number, table in enumerate(tables, 1):
        try:
            categories.append(_category(table))
        except ValueError as error:
            raise ValueError(f"category {number}: {error}") from None
    domains = [category.domain for category in categories]
    if len(set(domains)) < len(domains):
        raise ValueError(f"category: domains {', '.join(domains)}, expected each once")
    return Recipe(
        name=_take(written, "name", str, path.stem),
        seed=_take(written, "seed", int, 0),
        lengths={int(key): share for key, share in sorted(lengths.items(), key=lambda item: int(item[0]))},
        categories=tuple(categories),
        tokenizer=_take(written, "tokenizer", str, "") or None,
        rows=_positive(written, "rows", 1_000_000),
        folder=path.parent,
        written=written,
    )


def _category(table: dict) -> Category:
    _known(table, set(Category.__dataclass_fields__))
    sources = _take(table, "sources", list)
    if not sources or not all(isinstance(source, str) and source for source in sources):
        raise ValueError("sources: expected a list of folders, files or hf:OWNER/NAME")
    for source in sources:
        if source.startswith("hf:") and not 2 <= len([part for part in source[3:].split("/", 2) if part]) <= 3:
            raise ValueError(f"sources: {source!r}, expected hf:OWNER/NAME or hf:OWNER/NAME/CONFIG")
    where = _take(table, "where", dict, {})
    if not all(isinstance(allowed, list) for allowed in where.values()):
        raise ValueError("where: expected a list of allowed values for each column")
    domain = _take(table, "domain", str)
    if not 0 < len(domain.strip()) <= LONGEST_DOMAIN:
        raise ValueError(f"domain: {domain!r}, expected a name of at most {LONGEST_DOMAIN} characters")
    samples = _positive(table, "samples")
    return Category(
        domain=domain.strip(),
        samples=samples,
        sources=tuple(sources),
        text_column=_take(table, "text_column", str, "text"),
        split=_take(table, "split", str, "train"),
        where=where,
        script_at_least=_shares(table, "script_at_least"),
        script_at_most=_shares(table, "script_at_most"),
        join=_take(table, "join", bool, True),
        documents=_positive(table, "documents", 20 * samples),
    )


def _shares(table: dict, key: str) -> dict[str, float]:
    shares = _take(table, key, dict, {})
    for script, share in shares.items():
        script_share("a", script)  # raises for one that is none
        if not _is_share(share):
            raise ValueError(f"{key}: {script} = {share!r}, expected a number of 0 to 1")
    return shares


def _is_share(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _positive(table: dict, key: str, default: int | None = None) -> int:
    value = _take(table, key, int, default)
    if value < 1:
        raise ValueError(f"{key}: {value}, expected at least 1")
    return value


def _take(table: dict, key: str, kind: type, default=None):
    value = table.get(key, default)
    if value is None:
        raise ValueError(f"{key}: missing")
    if type(value) is not kind:
        raise ValueError(f"{key}: {value!r}, expected {_IN_WORDS[kind]}")
    return value


def _known(table: dict, keys: set[str]) -> None:
    for key in table:
        if key not in keys:
            raise ValueError(f"{key}: not a key of a recipe; there are {', '.join(sorted(keys))}")

"""A run: the summaries of all sites of a model on a corpus, with where they come from. Needs no PyTorch."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import safetensors.numpy

from maxact_kernels.fields import Options
from maxact_kernels.storage import Arrays, pack, read_safetensors, unpack, write_atomically
from maxact_kernels.summary import Summary

from .groups import read_groups

SCHEMA = 1
_MAX_JSON_BYTES = 1 << 28
_MAX_NAME = 256

ROUTERS = ("moe_gate", "router_logits")  # kinds of sites that are no activations in the sense of M
UNNAMED = 0xFFFF  # in the 16 bits that a row of an expert has for its sample, and for its position: no room for it


class Place(NamedTuple):
    """Where an element stands: its site, sample, position in the sample, feature, and signed value; at an experts site
    also the expert.

    An imported run knows the value alone; sample, position and feature are then None. At an experts site a sample or
    position of 65,535 or more is None.
    """

    site: str
    sample: int | None
    position: int | None
    feature: int | None
    value: float
    expert: int | None = None

    def to_json(self) -> dict:
        return {key: value for key, value in self._asdict().items() if key != "expert" or value is not None}


class Sites(Mapping):
    """Summaries by site name, in the order of the model; made on look-up, so that many large sites cost little."""

    def __init__(self, held: dict[str, tuple[Options, Arrays]]):
        self._held = held

    def __getitem__(self, name: str) -> Summary:
        return Summary(*self._held[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def held(self) -> Iterator[tuple[str, Options, Arrays]]:
        for name, (options, arrays) in self._held.items():
            yield name, options, arrays

    def files(self) -> dict[str, bytes]:
        """{file name: contents}: what a run directory holds of them beside run.json."""
        packed = {}
        for name, options, arrays in self.held():
            whole = {field: arrays[field] for field in arrays}
            packed |= {f"{name}/{field}": array for field, array in pack(options, whole).items()}
        return {"sites.safetensors": safetensors.numpy.save(packed)}


class Run:
    """What a measurement knows. `sites`: {name: Summary}. `provenance`: a JSON-able dict, written to run.json as it is."""

    def __init__(self, sites: Sites, provenance: dict):
        self.sites = sites
        experts = {name: _per_expert(sites[name]) for name in sites if site_kind(name) == "experts_act"}
        rest = {key: value for key, value in provenance.items() if key != "experts"}  # a file may claim anything
        self.provenance = rest | ({"experts": experts} if experts else {})

    @staticmethod
    def from_probe(probe, provenance: dict | None = None) -> Run:
        """A run from an attached probe's states; `provenance` says where the numbers come from."""
        held = {name: (state.options, Arrays(state.host_arrays())) for name, state in probe.states.items()}
        for name, (options, arrays) in held.items():
            try:
                Summary(options, arrays)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        groups = probe.groups()
        known = {"partial": False, "coverage": probe.coverage(), "modules": probe.modules()}
        known |= {"groups": groups} if groups else {}
        return Run(Sites(held), known | (provenance or {}))

    def __repr__(self) -> str:
        from .notebook import line

        return line(self)

    def _repr_html_(self) -> str:
        from .notebook import html

        return html(self)

    @property
    def partial(self) -> bool:
        """True if the measurement was interrupted: what was measured is right, but it is not the whole corpus."""
        return bool(self.provenance.get("partial"))

    @property
    def M(self) -> float:  # noqa: N802
        """Largest absmax over all sites but routers (arXiv 2605.15572); nan without any token."""
        return max((self.sites[name].absmax for name in self._ranked_sites()), default=math.nan)

    def peaks(self) -> list[Place]:
        """Where M stands: every site that ties, each with the first of its elements that has it."""
        M = self.M  # noqa: N806
        return [place_of(name, self.sites[name], 0) for name in self._ranked_sites() if self.sites[name].absmax == M]

    def _ranked_sites(self) -> list[str]:
        ranked = {name: self.sites[name] for name in self.sites if site_kind(name) not in ROUTERS}
        return [name for name, s in ranked.items() if s.n_elements and not math.isnan(s.absmax)]

    def experts(self) -> dict[str, dict[str, list]]:
        """By experts site: absmax, n_tokens and n_massive_tokens of each expert, in lists; {} if none was measured.

        An expert that saw no token has 0 everywhere. Expert 7 of `layer_3_experts_act` is called `layer_3_expert_7_act`.
        """
        return self.provenance.get("experts", {})

    def groups(self) -> dict[str, dict[str, dict]]:
        """By group of tokens and site: absmax, n_tokens and n_massive_tokens of the residual stream; {} if none is kept.

        `position_0` is the first token of each sample. Where there are others than those of a text: `content`, `special`
        and `template` (of the chat; `template_or_content` where a tokenizer does not tell them apart).
        """
        return read_groups(self.provenance.get("groups"))

    def token_text(self, sample: int, position: int) -> str | None:
        """The text of a token that stands in some site's top-k, if the run recorded it."""
        token = self.provenance.get("token_text", {}).get(f"{sample}:{position}")
        return token["text"] if isinstance(token, dict) and isinstance(token.get("text"), str) else None

    def to_json(self) -> dict:
        """run.json: the provenance and every site's single numbers; nan as null, infinities as strings."""
        sites = {}
        for name, summary in self.sites.items():
            sites[name] = {"options": summary.options.to_json()} | summary.scalars() | {"topk": _topk_json(name, summary)}
        return plain(
            {"schema": SCHEMA, "M": self.M, "peaks": [p.to_json() for p in self.peaks()]} | self.provenance
        ) | {"sites": plain(sites)}

    def save(self, directory: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write run.json and the files of its sites into a new directory; it appears whole or not at all.

        Raises FileExistsError if it exists and is not a run to overwrite, OSError if it cannot be written.
        """
        directory = Path(directory)
        check_output(directory, overwrite)
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = (directory.with_name(f".{directory.name}-{os.getpid()}-{part}") for part in ("new", "old"))
        temporary.mkdir()
        try:
            for name, contents in self.sites.files().items():
                write_atomically(temporary / name, contents)
            text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
            write_atomically(temporary / "run.json", text.encode())
            if directory.exists():
                os.replace(directory, old)
                os.replace(temporary, directory)
                shutil.rmtree(old)
            else:
                os.replace(temporary, directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for left in directory.parent.iterdir():  # by a process that was killed while it saved
            if re.fullmatch(rf"\.{re.escape(directory.name)}-\d+-(new|old)", left.name):
                shutil.rmtree(left, ignore_errors=True)

    @staticmethod
    def load(directory: str | os.PathLike) -> Run:
        """Read a run directory; everything in it is checked. Raises OSError, or ValueError with the path and the fault."""
        directory = Path(directory)
        path = directory / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"{directory}: not a run directory: it holds no run.json")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_JSON_BYTES}")
        try:
            record = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not readable as JSON: {error}") from None
        if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
            raise ValueError(f"{path}: expected an object with a schema number")
        if record["schema"] != SCHEMA:
            raise ValueError(
                f"{path}: schema {record['schema']}, expected {SCHEMA}; read it with the version of maxact that wrote it "
                f"or a later one (it was written by {str(record.get('maxact'))[:40]!r})"
            )
        sites = record.pop("sites", None)
        if not isinstance(sites, dict) or not all(is_name(name) and isinstance(s, dict) for name, s in sites.items()):
            raise ValueError(f"{path}: sites: expected an object of named sites")

        for name in ("model", "corpus", "environment", "token_text", "imported"):
            if not isinstance(record.get(name, {}), dict):
                raise ValueError(f"{path}: {name}: expected an object")
        if "imported" in record:
            from .max_act_llm_import import load_run

            return load_run(directory, record["imported"])

        tables = directory / "sites.safetensors"
        packed = {name: {} for name in sites}
        for key, array in read_safetensors(tables)[0].items():
            name, _, field = key.partition("/")
            if name not in packed:
                raise ValueError(f"{tables}: holds {key[:_MAX_NAME]!r}, of which run.json knows nothing")
            packed[name][field] = array
        held = {}
        for name, site in sites.items():
            try:
                options = Options.from_json(site.get("options"))
                held[name] = options, unpack(options, packed[name])
                summary = Summary(*held[name])
                if site_kind(name) == "experts_act":
                    _per_expert(summary)
            except ValueError as error:
                raise ValueError(f"{directory}: site {name}: {error}") from None
        record.pop("M", None), record.pop("peaks", None), record.pop("schema")
        return Run(Sites(held), record)


def check_output(directory: Path, overwrite: bool) -> None:
    """Refuse, before any work, a place where a run cannot go. Raises FileExistsError."""
    if not directory.exists():
        return
    if directory.is_dir() and ((directory / "run.json").is_file() or not any(directory.iterdir())):
        if overwrite or not (directory / "run.json").exists():
            return
        raise FileExistsError(f"{directory}: holds a run already; name another directory or add --overwrite")
    raise FileExistsError(f"{directory}: exists and is not a run directory; name another")


def site_kind(name: str) -> str:
    """`hidden` of `layer_3_hidden`; a site outside the layers is its own kind."""
    match = re.fullmatch(r"layer_\d+_(?:expert_\d+_)?(.+)", name)
    return match[1] if match else name


def site_layer(name: str) -> int | None:
    match = re.match(r"layer_(\d{1,9})_", name)
    return int(match[1]) if match else None


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The sites that patterns match, all if there are none. Raises ValueError for one that matches nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"sites: {pattern!r} matches no site of this run")
    return [name for name in names if not patterns or any(fnmatchcase(name, p) for p in patterns)]


def place_of(site: str, summary: Summary, rank: int) -> Place:
    """The place of the element at this rank of a site's top-k."""
    top = summary.topk
    if not len(top.token_ids):
        return Place(site, None, None, None, float(top.values[rank]))
    sample, position, expert = token_of(site, int(top.token_ids[rank]))
    return Place(site, sample, position, int(top.features[rank]), float(top.values[rank]), expert)


def token_of(site: str, token_id: int) -> tuple[int | None, int | None, int | None]:
    """(sample, position, expert): the halves of a token id are sample and position; those of an expert's row are the
    expert, and 16 bits for each of the other two."""
    upper, lower = token_id >> 32, token_id & 0xFFFFFFFF
    if site_kind(site) != "experts_act":
        return upper, lower, None
    sample, position = (None if half == UNNAMED else half for half in (lower >> 16, lower & 0xFFFF))
    return sample, position, upper


def _per_expert(summary: Summary) -> dict[str, list]:
    return {
        "absmax": summary.sample_absmax.tolist(),
        "n_tokens": summary.sample_tokens.tolist(),
        "n_massive_tokens": summary.sample_massive.tolist(),
    }


def _topk_json(name: str, summary: Summary) -> list[dict]:
    places = (place_of(name, summary, rank) for rank in range(min(5, len(summary.topk.values))))
    return [{key: value for key, value in place.to_json().items() if key != "site"} for place in places]


def plain(value):
    """The same for JSON, which has no nan (null) and no infinities ("inf")."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def is_name(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and name.isprintable() and "/" not in name

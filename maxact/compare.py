"""What changed between two runs: by site, in factors, the largest change first. Needs no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from rich import box
from rich.table import Table

from maxact_kernels.summary import Summary

from .run import Place, Run, place_of
from .show import held
from .words import PARTIAL, counted, number, safe, times

# What makes two runs answer the same question; where these differ, a factor may come from the measurement.
_CONDITIONS = {
    "model": ("model_id", "revision", "config_digest", "dtype", "attn"),
    "corpus": ("name", "digest", "bos", "special_tokens", "chat_template", "max_length"),
    "environment": ("device", "backend", "torch", "transformers"),
}

_WHICH = ("first", "second")


class Change(NamedTuple):
    """A site that both runs have. Factors are b / a: inf from zero, nan where one of them has no value."""

    site: str
    absmax: tuple[float, float]
    factor: float
    q999_factor: float  # of the 0.999 quantile of |x|; nan where a run has no counts
    ratio_max: tuple[float, float]
    n_massive_tokens: tuple[int | None, int | None]  # None, as below: an imported run may not know
    n_nonfinite: tuple[int | None, int | None]
    places: tuple[Place | None, Place | None]
    identical: bool  # every table of the site has the same bits in both

    @property
    def size(self) -> tuple[float, float]:
        """How far absmax, then the quantile, is from the same, up or down, in octaves; nan is the farthest."""
        return _octaves(self.factor), _octaves(self.q999_factor)


class Comparison(NamedTuple):
    M: tuple[float, float]
    changes: list[Change]  # the largest first, equals in the order of the model
    only_a: list[str]
    only_b: list[str]
    conditions: dict[str, tuple]  # what differs in how it was measured: (a, b)
    partial: tuple[bool, bool]


def compare(a: Run, b: Run) -> Comparison:
    """Set two runs side by side, site by site."""
    changes = [_change(name, a.sites[name], b.sites[name]) for name in a.sites if name in b.sites]
    changes.sort(key=lambda change: change.size, reverse=True)
    return Comparison(
        (a.M, b.M),
        changes,
        [name for name in a.sites if name not in b.sites],
        [name for name in b.sites if name not in a.sites],
        dict(_conditions(a, b)),
        (a.partial, b.partial),
    )


def sentence(found: Comparison) -> str:
    """The comparison in a sentence or two."""
    if not found.changes:
        return "The runs share no site, so there is nothing to compare."
    larger = sum(change.factor > 1 for change in found.changes)
    smaller = sum(change.factor < 1 for change in found.changes)
    same = sum(change.factor == 1 for change in found.changes)
    unknown = len(found.changes) - larger - smaller - same
    parts = [f"grew in {larger}", f"fell in {smaller}", f"stayed in {same}"]
    parts += [f"has no value in one run in {unknown}"] if unknown else []
    a, b = found.M
    if a == b:
        head = f"M is {number(a)} in both"
    else:
        head = f"M goes from {number(a)} to {number(b)} ({factor_text(_factor(a, b))})"
    if all(change.identical for change in found.changes):
        return f"{head}; the same to the last bit of every table in {counted(len(found.changes), 'site')}."
    text = f"{head}; of {counted(len(found.changes), 'site')} the absmax {', '.join(parts)}."
    first = found.changes[0]
    if first.factor != 1:
        text += f" The largest change: {safe(first.site)}, {number(first.absmax[0])} to {number(first.absmax[1])}"
        text += f" ({factor_text(first.factor)})."
    return text


def to_json(found: Comparison) -> dict:
    changes = []
    for change in found.changes:
        row = change._asdict()
        row["places"] = [place and {k: v for k, v in place.to_json().items() if k != "site"} for place in change.places]
        changes.append(row)
    return found._asdict() | {"sentence": sentence(found), "changes": changes}


def describe(found: Comparison, top: int | None) -> Iterator[str | Table]:
    """The comparison for a terminal; `top`: how many sites, None for all."""
    yield sentence(found)
    for which, partial in zip(_WHICH, found.partial):
        if partial:
            yield f"PARTIAL, the {which}: {PARTIAL}."
    known = [f"{name} {_shown(a)} → {_shown(b)}" for name, (a, b) in found.conditions.items() if None not in (a, b)]
    if known:
        yield f"Not measured alike: {' · '.join(known)}"
    for place, which in enumerate(_WHICH):
        if unknown := [name for name, values in found.conditions.items() if values[place] is None]:
            yield f"Not recorded in the {which}: {', '.join(unknown)}."
    for which, names in zip(_WHICH, (found.only_a, found.only_b)):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            yield f"Only in the {which}: {', '.join(map(safe, names[:8]))}{more}."
    changed = [change for change in found.changes if not change.identical]
    if changed:
        yield _table(changed[:top])
        yield "first run → second run · factor: of absmax, second by first · q0.999: factor of that quantile of |x|"
        yield "ratio: largest m_t / median of a token · massive: tokens that pass the Sun test · channel: of absmax"
        if top is not None and len(changed) > top:
            yield f"… and {len(changed) - top} that changed less; --top 0 shows all."


def factor_text(factor: float) -> str:
    """A factor for people; 1.004 is not shown as 1."""
    if math.isnan(factor):
        return "no factor"
    if factor == 1:
        return "the same"
    if factor == math.inf:
        return "from zero"
    shown = (f"{factor:.{digits}g}x" for digits in range(4, 18))
    return next(text for text in (times(factor), *shown) if text != "1x")


def _change(name: str, a: Summary, b: Summary) -> Change:
    quantiles = (held(lambda: s.quantile(0.999)) for s in (a, b))
    return Change(
        name,
        tuple(s.absmax if s.n_elements else math.nan for s in (a, b)),
        _factor(*(s.absmax if s.n_elements else math.nan for s in (a, b))),
        _factor(*quantiles),
        (a.ratio_max, b.ratio_max),
        (a.n_massive_tokens, b.n_massive_tokens),
        tuple(None if s.n_nan is None else s.n_nan + s.n_inf for s in (a, b)),
        tuple(place_of(name, s, 0) if s.n_elements else None for s in (a, b)),
        a.same_bits(b),
    )


def _factor(a: float, b: float) -> float:
    if a == b:
        return 1.0
    if math.isnan(a) or math.isnan(b):
        return math.nan
    return b / a if a else math.inf


def _octaves(factor: float) -> float:
    return math.inf if math.isnan(factor) or factor in (0.0, math.inf) else abs(math.log2(factor))


def _conditions(a: Run, b: Run) -> Iterator[tuple[str, tuple]]:
    for part, keys in _CONDITIONS.items():
        for key in keys:
            values = tuple(run.provenance.get(part, {}).get(key) for run in (a, b))
            if values[0] != values[1]:
                yield f"{part} {key}", values
    for key in ("skip_first", "n_samples", "n_tokens"):
        values = a.provenance.get(key), b.provenance.get(key)
        if values[0] != values[1]:
            yield key, values


def _shown(value) -> str:
    return safe(str(value)[:24])


def _table(changes: list[Change]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("site", no_wrap=True)
    for heading in ("absmax", "factor", "q0.999", "ratio", "massive", "channel"):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in changes:
        bad = [f" and {number(n)} not finite" if n else "" for n in change.n_nonfinite]
        table.add_row(
            safe(change.site),
            " → ".join(number(value) + more for value, more in zip(change.absmax, bad)),
            factor_text(change.factor),
            factor_text(change.q999_factor),
            _pair(*map(number, change.ratio_max)),
            _pair(*map(number, change.n_massive_tokens)),
            _pair(*("–" if place is None or place.feature is None else str(place.feature) for place in change.places)),
        )
    return table


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"

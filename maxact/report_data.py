"""What the report page needs of a run, as compact JSON: numbers by column, tables as text. Needs no PyTorch.

A table of counts is written as the runs of keys that occur: how many runs; then of each the gap to the one before, its
length, and its counts as zigzag differences. All are base-128 integers, lowest group first, in base64.
"""

from __future__ import annotations

import base64
import math
import re

import numpy as np

from maxact_kernels.summary import Summary

from .run import Run, place_of, site_kind, site_layer
from .stability import stability

MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 7}  # of a key of `counts`
TABLE_BYTES = 10 << 20  # of all tables of counts: 94 layers x 10 sites x 4 runs at 16 bins to the octave are less
MERGED_BITS = 5, 4  # 32 and 16 bins to the octave, where every magnitude would be more than that
RATIO_ORIGIN = 96, 16  # keys of m_t = 1 and r_t = 16: tokens below either are not on the page
N_WHOLE = 384  # largest magnitudes of a site that are never merged: three octaves of bf16 where all occur
N_CHANNELS, N_TOKENS = 16, 12
_MAX_TEXT = 200

# Single numbers of a summary, under their own names.
COLUMNS = (
    "n_elements n_tokens n_zero n_nan n_inf absmax n_absmax min max mean abs_mean rms n_massive_tokens "
    "n_massive_elements ratio_max ratio_max_absmax ratio_max_median peak_median peak_ratio"
).split()


def runs_data(runs: list[tuple[str, Run]]) -> dict:
    """The data of a page on these runs by label. Raises ValueError if a run's tables contradict each other."""
    for label, run in runs:
        for name in run.sites:
            _check(f"{label}: site {name}", run.sites[name])
    for bits in (None, *MERGED_BITS):
        tables = [[_count_tables(summary, bits) for summary in run.sites.values()] for _, run in runs]
        if sum(len(text) for of_run in tables for texts in of_run for text in texts or ()) <= TABLE_BYTES:
            break
    return {"merged_bits": bits, "runs": [_run_data(*run, texts) for run, texts in zip(runs, tables)]}


def _run_data(label: str, run: Run, tables: list[list[str] | None]) -> dict:
    p, model, corpus = run.provenance, run.provenance.get("model", {}), run.provenance.get("corpus", {})
    sites = [_site_data(name, summary) for name, summary in run.sites.items()]
    places = {tuple(token[1:3]) for site in sites for token in site["top"]}
    texts = {f"{sample}:{position}": run.token_text(sample, position) for sample, position in places}
    facts = {
        "model": model.get("model_id"),
        "dtype": model.get("dtype"),
        "attention": model.get("attn"),
        "corpus": corpus.get("name"),
        "special": _special(corpus),
        "samples": p.get("n_samples"),
        "tokens": p.get("n_tokens"),
        "created": p.get("created"),
        "imported": "imported" in p,
        **{key: p.get("environment", {}).get(key) for key in ("backend", "device")},
    }
    return {
        "label": _text(label),
        "family": _family(model),
        "partial": run.partial,
        "facts": {key: _text(value) for key, value in facts.items() if isinstance(value, (str, int, float)) and value},
        "M": _number(lambda: run.M),
        "peaks": [place.site for place in run.peaks()],
        "columns": {key: [site[key] for site in sites] for key in sites[0]} if sites else {},
        "counts": tables,
        "tokens": {place: _text(text) for place, text in texts.items() if text is not None},
        "experts": _experts(run),
        "groups": _groups(run),
        "stability": _stability(run),
    }


def _site_data(name: str, summary: Summary) -> dict:
    largest = {}  # value of each token; where places are not known, each value
    for rank in range(len(summary.topk.values)):
        place = place_of(name, summary, rank)
        largest.setdefault(rank if place.position is None else (*place[1:3], place.expert), place)
        if len(largest) == N_TOKENS:
            break
    channels = summary.channel_absmax
    order = np.lexsort((np.arange(len(channels)), -channels))
    return {
        "name": name,
        "kind": site_kind(name),
        "layer": site_layer(name),
        "width": summary.options.d,
        "dtype": summary.options.dtype,
        "t_abs": summary.options.t_abs,
        "t_ratio": summary.options.t_ratio,
        **{column: _number(lambda: getattr(summary, column)) for column in COLUMNS},
        "q0.999": _number(lambda: summary.quantile(0.999)),
        "per_token_db": _number(lambda: summary.int8_per_token.sqnr_db),
        "ratios": _ratio_table(summary),
        # Value, sample, position, channel, expert.
        "top": [[_finite(p.value), *p[1:4], p.expert] for p in largest.values()],
        "channels": [[int(c), _finite(channels[c])] for c in order[:N_CHANNELS]],
        # Channels by rank 1, 2, 4 ... and the last.
        "ranks": [
            [rank, _finite(channels[order[rank - 1]])]
            for rank in sorted({min(2**i, len(order)) for i in range(len(order).bit_length() + 1)} - {0})
        ],
    }  # fmt: skip


def _check(what: str, summary: Summary) -> None:
    for option, table, total in (
        ("counts", "counts", summary.n_elements),
        ("medians", "ratio_table", summary.n_tokens),
    ):
        if getattr(summary.options, option):
            cells = getattr(summary, table)
            if cells.min() < 0:
                raise ValueError(f"{what}: {table} holds {cells.min()}, expected counts of at least 0")
            if table == "counts" and int(cells.sum()) != total:
                raise ValueError(f"{what}: counts add up to {int(cells.sum())}, expected {total} like n_elements")


def _count_tables(summary: Summary, bits: int | None) -> list[str] | None:
    """The counts as text, low magnitudes first; None if the run has none.

    With `bits`, all but the N_WHOLE largest magnitudes that occur are merged: one count for those that share their first
    `bits` bits of mantissa. The largest hold most of the energy where activations are massive; the rest is dense.
    """
    if not summary.options.counts:
        return None
    keys = summary.counts.nonzero()[0]
    counts = summary.counts[keys]
    if bits is None:
        return ["", table_text(keys, counts)]
    shift = MANTISSA_BITS[summary.options.dtype] - bits
    # From the start of a bin on, so that none is in both.
    first = np.searchsorted(keys, keys[-N_WHOLE] >> shift << shift) if len(keys) > N_WHOLE else 0
    merged, where = np.unique(keys[:first] >> shift, return_inverse=True)
    sums = np.zeros(len(merged), dtype=np.int64)
    np.add.at(sums, where, counts[:first])
    return [table_text(merged, sums), table_text(keys[first:], counts[first:])]


def _ratio_table(summary: Summary) -> str | None:
    if not summary.options.medians:
        return None
    table = summary.ratio_table.copy()
    table[: RATIO_ORIGIN[0]] = 0
    table[:, : RATIO_ORIGIN[1]] = 0
    keys = table.reshape(-1).nonzero()[0]
    return table_text(keys, table.reshape(-1)[keys])


def table_text(keys: np.ndarray, counts: np.ndarray) -> str:
    """Ascending keys and their counts, as this file's head says."""
    starts = np.concatenate(([True], np.diff(keys) != 1))[: len(keys)]
    first = starts.nonzero()[0]
    lengths = np.diff(np.concatenate((first, [len(keys)])))
    ends = np.concatenate(([-1], (keys[first] + lengths - 1)[:-1])) if len(first) else keys
    steps = np.diff(counts, prepend=0)
    zigzag = (steps << 1) ^ (steps >> 63)
    heads = np.stack((keys[first] - ends - 1, lengths), axis=1)
    numbers = np.insert(zigzag, np.repeat(first, 2), heads.reshape(-1))
    return base64.b64encode(_base128(np.concatenate(([len(first)], numbers)))).decode()


def _base128(numbers: np.ndarray) -> bytes:
    """Each number in groups of 7 bits, lowest first; all but its last group carry the bit 128."""
    numbers = numbers.astype(np.uint64)
    groups = (numbers[:, None] >> np.arange(0, 64, 7, dtype=np.uint64)) & np.uint64(127)  # [n, 10]
    n_groups = np.maximum(1, 10 - np.argmax(groups[:, ::-1] != 0, axis=1))
    n_groups[numbers == 0] = 1
    place = np.arange(10)
    groups = groups.astype(np.uint8) | np.where(place < n_groups[:, None] - 1, 128, 0).astype(np.uint8)
    return groups[place < n_groups[:, None]].tobytes()


def _experts(run: Run) -> dict:
    return {
        _text(name): {"layer": site_layer(name)}
        | {key: [_finite(v) for v in values] for key, values in columns.items()}
        for name, columns in run.experts().items()
    }


def _special(corpus: dict) -> str | None:
    """What was put around each sample."""
    known = [key for key in ("bos", "special_tokens", "chat_template") if corpus.get(key) is True]
    return " and ".join(known).replace("_", " ") or ("no special tokens" if "bos" in corpus else None)


def _groups(run: Run) -> dict:
    """By group of tokens and site: absmax, n_tokens, n_massive_tokens."""
    return {
        _text(group): {_text(site): [_finite(value) for value in numbers.values()] for site, numbers in sites.items()}
        for group, sites in run.groups().items()
    }


def _stability(run: Run) -> dict | None:
    """How M depends on the samples; None if the run does not tell them apart."""
    try:
        found = stability(run)
    except ValueError:
        return None
    kept = {key: _finite(found[key]) for key in ("n_samples", "M", "n_near", "growth_per_doubling", "exceeding_share")}
    rows = ([row["n"], row["mean"], *row["quantiles"].values()] for row in found["curve"])
    return kept | {
        "saturated": found["saturated"],
        "curve": [[_finite(value) for value in row] for row in rows],
        "domains": [[_text(name), d["n_samples"], _finite(d["M"])] for name, d in found["domains"].items()],
    }


def _family(model: dict) -> str:
    """The name before the size, as `smollm2` of `HuggingFaceTB/smollm2-135m`; else the model type."""
    name = model.get("model_id")
    match = re.match(r"(.+?)[-_ ]?\d+(\.\d+)?[bm]\b", name.rsplit("/", 1)[-1], re.I) if isinstance(name, str) else None
    return _text(match[1] if match else model.get("model_type") or name or "unknown")


def _number(get):
    """A number of a summary; None if an option left it out, or if it is nan or beyond a float."""
    try:
        return _finite(get())
    except (ValueError, ArithmeticError):
        return None


def _finite(value):
    """For JSON: infinities as "inf", what is no number as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or value != value:
        return None
    value = value.item() if isinstance(value, np.number) else value
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _text(value) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"

"""A run as text for a terminal: M and its place, a table over layers, a picture of absmax against depth."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table

from maxact_kernels.fields import Options
from maxact_kernels.summary import Summary

from .groups import POSITION_0, Row, rows
from .limits import LIMITS
from .published import checkpoint
from .run import Place, Run, place_of, site_kind, site_layer
from .words import PARTIAL, counted, decibel, number, percent, ranges, room, safe

_PICTURE_ROWS = 8
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def print_run(run: Run, console: Console, kind: str = "hidden") -> None:
    """Print a run; `kind` chooses the sites of the table and the picture. ValueError if the run has none of them."""
    if kind == "experts":
        from .show_experts import print_experts

        return print_experts(run, console)
    if kind == "coverage":
        from .show_coverage import print_coverage

        return print_coverage(run, console)
    layers = {site_layer(name): name for name in run.sites if site_kind(name) == kind and site_layer(name) is not None}
    if not layers:
        kinds = sorted({site_kind(name) for name in run.sites if site_layer(name) is not None})
        known = f"expected one of {', '.join(kinds)}" if kinds else "which has no site in a layer"
        raise ValueError(f"kind: {kind!r} was not measured in this run, {known}")
    for line in _heading(run):
        console.print(line)
    console.print()
    console.print(_layer_table(run, layers))
    groups = rows(run)
    if groups:
        console.print()
        console.print(_group_table(groups))
    console.print()
    for line in _picture([run.sites[name].absmax for name in layers.values()], f"absmax of {kind} against depth"):
        console.print(line)


def not_finite(run: Run) -> list[str]:
    """A line if nan or inf was met at any site."""
    bad = [name for name in run.sites if run.sites[name].n_nan != 0 or run.sites[name].n_inf != 0]
    if not bad:
        return []
    first = run.sites[bad[0]]
    return [
        f"NOT FINITE: nan or inf in {counted(len(bad), 'site')}, first {safe(bad[0])} ({number(first.n_nan)} nan, "
        f"{number(first.n_inf)} inf); every figure is over the finite elements."
    ]


def _heading(run: Run) -> list[str]:
    p, model, corpus = run.provenance, run.provenance.get("model", {}), run.provenance.get("corpus", {})
    around = [name for name in ("bos", "special_tokens", "chat_template") if corpus.get(name)]
    parts = [safe(model[key]) for key in ("model_id", "dtype") if key in model]
    if corpus:
        parts += [
            f"corpus {safe(corpus.get('name'))}",
            f"{number(p.get('n_samples'))} samples",
            f"{number(p.get('n_tokens'))} tokens",
        ]
        if "imported" not in p:
            parts.append(" and ".join(around).replace("_", " ") or "no special tokens")
    if corpus.get("n_truncated"):
        parts.append(f"{number(corpus['n_truncated'])} samples cut to {number(corpus.get('max_length'))} tokens")
    lines = [" · ".join(parts)]
    if "imported" in p:
        lines.append(f"IMPORTED from {safe(p['imported']['format'])} files, which hold no {p['imported']['lacks']}.")
    if p.get("skip_first"):
        lines.append(f"The first {number(p['skip_first'])} tokens of each sample are left out.")
    shard = p.get("shard")
    if isinstance(shard, list) and len(shard) == 2 and shard != [1, 1]:
        lines.append(f"SHARD {number(shard[0])} of {number(shard[1])}: maxact merge makes one run of them.")
    if run.partial:
        lines.append(f"PARTIAL: {PARTIAL}.")
    lines.append(f"M = {number(run.M)}")
    peaks = run.peaks()
    for place, names in _group(peaks).items():
        lines.append(f"  at {ranges(names)}: {_describe(run, place)}")
    lines += _published(model.get("model_id"))
    lines += not_finite(run)
    if math.isfinite(run.M) and run.M > 0:
        limits = {"fp16": LIMITS["fp16"], "FP8 E4M3": LIMITS["e4m3"]}
        rooms = [f"{room(run.M, limit)} {number(limit)}, the largest {name}" for name, limit in limits.items()]
        lines.append(f"Without a scale M is {' and '.join(rooms)}.")
    massive = sum(run.sites[name].n_massive_tokens or 0 for name in run.sites if site_kind(name) == "hidden")
    where = [name for name in run.sites if site_kind(name) == "hidden" and run.sites[name].n_massive_tokens]
    lines.append(
        f"Massive activations ({sun_test(run)}): {counted(massive, 'token')} in {ranges(where)}"
        if where
        else f"Massive activations ({sun_test(run)}): none in the residual stream"
    )
    first = run.groups().get(POSITION_0)
    if massive and first is not None:
        at_first = sum(numbers["n_massive_tokens"] for numbers in first.values())
        lines.append(f"  {100 * at_first / massive:.3g} % of them at position 0")
    for row in p.get("imported", {}).get("int8", []):
        lines.append(f"INT-8 in the files, {safe(row['layer'])}, {safe(row['policy'])}: {decibel(row['sqnr_db'])} dB")
    return lines


def sun_test(run: Run) -> str:
    """|x| > 100 and > 1,000 medians of the token"""
    options = next((run.sites[name].options for name in run.sites if site_kind(name) == "hidden"), Options)
    return f"|x| > {number(options.t_abs)} and > {number(options.t_ratio)} medians of the token"


def _published(model_id) -> list[str]:
    row = checkpoint(model_id) if isinstance(model_id, str) else None
    if row is None:
        return []
    massive = "massive activations" if row.n_massive_tokens else "no massive activations"
    more = f" and {row.n_tied - 1} more" if row.n_tied > 1 else ""
    return [
        f"Published of {row.model}: M = {number(row.M)} at {row.site}{more}, {massive}, "
        f"{number(row.n_tokens)} tokens (arXiv 2605.15572)"
    ]


def _group(peaks: list[Place]) -> dict[Place, list[str]]:
    """Tied sites by the element they share: a value that the residual stream carries on stands in many."""
    groups: dict[tuple, list[Place]] = {}
    for place in peaks:
        groups.setdefault(place[1:], []).append(place)
    return {places[0]: [p.site for p in places] for places in groups.values()}


def _describe(run: Run, place: Place) -> str:
    if place.feature is None:
        return number(place.value)
    text = run.token_text(place.sample, place.position)
    token = f" {safe(text)}" if text is not None else ""
    expert = "" if place.expert is None else f"expert {place.expert} · "
    sample, position = ("65,535 or more" if n is None else n for n in (place.sample, place.position))
    return f"{number(place.value)} · {expert}token{token} at position {position} of sample {sample} · channel {place.feature}"


def _layer_table(run: Run, layers: dict[int, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "layer", "absmax", "channel", "position", "ratio", "massive", "q0.999",
        "INT-8\nmax", "INT-8\nq0.999", "per\ntoken", "zeroed", "M / rms",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for layer, name in layers.items():
        table.add_row(str(layer), *_layer_row(name, run.sites[name]))
    table.caption = (
        "ratio: largest m_t / median of a token · massive: tokens that pass the Sun test\n"
        "INT-8: SQNR in dB, one scale at absmax, one at the 0.999 quantile, one per token · zeroed: by the first"
    )
    table.caption_justify = "left"
    return table


def _layer_row(name: str, summary: Summary) -> list[str]:
    if not summary.n_elements:
        return ["nothing"] + [""] * 10
    place = place_of(name, summary, 0)
    return [
        number(summary.absmax),
        "–" if place.feature is None else str(place.feature),
        "–" if place.position is None else str(place.position),
        number(summary.ratio_max),
        number(summary.n_massive_tokens),
        number(held(lambda: summary.quantile(0.999))),
        *_int8(summary),
    ]


def _int8(summary: Summary) -> list[str]:
    """SQNR with one scale at max and at q0.999, and what it does not say on its own."""
    return [
        *(decibel(held(lambda: summary.quantization_error("int8", name).sqnr_db)) for name in ("max", "q0.999")),
        decibel(held(lambda: summary.int8_per_token.sqnr_db)),
        percent(held(lambda: summary.quantization_error("int8").zeroed)),
        number(held(lambda: summary.absmax / summary.rms)),
    ]


def held(get: Callable[[], float]) -> float:
    """A number that a state may have left out, or a published file does not hold: then nan."""
    try:
        return get()
    except (ValueError, ZeroDivisionError):
        return math.nan


def tensor_table(found: list[tuple[str, tuple[int, ...], str, Summary | str]]) -> Table:
    """The tensors of a file, as `tensor_file.summaries` gives them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("tensor", "shape", "dtype"):
        table.add_column(heading)
    for heading in (
        "absmax",
        "at [token, feature]",
        "ratio",
        "massive",
        "q0.999",
        "INT-8\nmax",
        "INT-8\nq0.999",
        "per\ntoken",
        "zeroed",
        "M / rms",
        "nan/inf",
    ):
        table.add_column(heading, justify="right")
    for name, shape, dtype, summary in found:
        row = [safe(name), safe("x".join(map(str, shape)) or "scalar"), safe(dtype)]
        if isinstance(summary, str):
            table.add_row(*row, summary)
        elif summary.n_elements:
            table.add_row(
                *row,
                number(summary.absmax),
                f"[{summary.topk.token_ids[0]}, {summary.topk.features[0]}]",
                number(summary.ratio_max),
                number(summary.n_massive_tokens),
                number(summary.quantile(0.999)),
                *_int8(summary),
                f"{summary.n_nan:,}/{summary.n_inf:,}",
            )
        else:
            table.add_row(*row, *["–"] * 10, f"{summary.n_nan:,}/{summary.n_inf:,}")
    return table


def _group_table(groups: list[Row]) -> Table:
    table = Table(title="Residual stream by token group", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group")
    for heading in ("tokens", "absmax", "at", "massive"):
        table.add_column(heading, justify="right")
    for row in groups:
        absmax = number(row.absmax) if row.site else f"≤ {number(row.absmax)}"
        table.add_row(
            safe(row.group), number(row.n_tokens), absmax, safe(row.site or "–"), number(row.n_massive_tokens)
        )
    return table


def _picture(values: list[float], title: str) -> list[str]:
    """Columns on a log axis, one a layer, in eighths of a character."""
    logs = [math.log10(v) if 0 < v < math.inf else None for v in values]
    known = [v for v in logs if v is not None]
    if not known:
        return [f"{title}: all zero"]
    low, high = math.floor(min(known)), max(math.ceil(max(known)), math.floor(min(known)) + 1)
    heights = [0 if v is None else max(1, round((v - low) / (high - low) * _PICTURE_ROWS * 8)) for v in logs]
    width = 2 if len(values) <= 48 else 1
    lines = [f"{title} (log scale)"]
    for row in reversed(range(_PICTURE_ROWS)):
        axis = ""
        for power in range(low, high + 1):
            if round((power - low) / (high - low) * (_PICTURE_ROWS - 1)) == row:
                axis = number(10.0**power)
        cells = "".join(_EIGHTHS[min(8, max(0, h - row * 8))] * width for h in heights)
        lines.append(f"{axis:>10} ┤{cells}")
    lines.append(" " * 11 + "└" + "─" * (width * len(values)))
    last = str(len(values) - 1)
    lines.append(" " * 12 + "0" + last.rjust(width * len(values) - 1))
    return lines

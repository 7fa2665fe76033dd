"""What to keep in high precision, so that the rest has a demanded SQNR or room below a limit: layers, sites, channels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from maxact_kernels.summary import Summary

from .check import Quantizer, error_figures, judged_by_sqnr
from .limits import limit_of
from .run import Run, plain, site_layer

# More channels than one in so many are not worth a mixed matrix product: then the whole site is kept.
_ONE_IN = 64


def keep(
    run: Run, *, sqnr: float | None = None, quantize: str = "int8", limit: str | None = None, headroom: float = 1.0
) -> tuple[dict[str, bytes], list[str]]:
    """keep.json: every site that falls short, with the channels that are enough to keep, or the whole of it.

    sqnr: demanded dB under one `quantize` scale per tensor at the largest value. limit: of `check.limit_of`, with absmax
    times `headroom` at most that. Raises ValueError unless one of the two is given.
    """
    if (sqnr is None) == (limit is None):
        raise ValueError("keep: name what the rest must have: either --sqnr DB or --limit fp16 (with --headroom)")
    if sqnr is not None and not math.isfinite(sqnr):
        raise ValueError(f"sqnr: {sqnr}, expected a finite number of dB")
    if not headroom > 0:
        raise ValueError(f"headroom: {headroom}, expected a positive factor")
    judged = [name for name in (run.sites if sqnr is None else judged_by_sqnr(list(run.sites))) if run.sites[name].n_elements]
    if not judged:
        raise ValueError("keep: this run has no site with a value that could be judged")
    if sqnr is not None:
        demand = {"sqnr_db": sqnr, "format": quantize, "threshold": "max"}
        rows = list(_short_of_sqnr(run, judged, sqnr, quantize))
        about = (
            "sqnr_db is that of the site, sqnr_db_of_rest that of its elements of at most `threshold`, under one scale at "
            "`threshold`, the largest value of the channels that are not kept. A run does not tell which of these elements "
            "the kept channels have: it is an estimate, and sqnr_db_of_rest_least what it cannot be below."
        )
    else:
        demand = {"limit": limit, "largest": limit_of(limit), "headroom": headroom}
        rows = list(_short_of_room(run, judged, limit_of(limit) / headroom))
        about = "Channels whose largest value times the headroom is over the limit."
    modules = run.provenance.get("modules")
    for row in rows:
        at = modules.get(row["site"]) if isinstance(modules, dict) else None
        row["modules"] = at.get("paths") if isinstance(at, dict) else None
    layers = sorted({row["layer"] for row in rows} - {None})
    record = {"demand": demand, "about": about, "layers": layers, "sites": rows, "maxact": run.provenance.get("maxact")}
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    whole = sum(row["keep"] == "site" for row in rows)
    note = (
        f"Sites that fall short: {len(rows)} of {len(judged)}, of which {whole} are to be kept whole and {len(rows) - whole} "
        "in part."
    )
    return {"keep.json": text.encode()}, [note]


def _short_of_sqnr(run: Run, judged: list[str], sqnr: float, quantize: str) -> Iterator[dict]:
    for name in judged:
        summary = run.sites[name]
        if not summary.absmax:
            continue
        figures = error_figures(summary, Quantizer(quantize))
        if figures["sqnr_db_least"] < sqnr:
            yield {"site": name, "layer": site_layer(name)} | figures | _channels_for(summary, sqnr, quantize)


def _channels_for(summary: Summary, sqnr: float, quantize: str) -> dict:
    """The fewest of the largest channels without which the rest has this SQNR, as far as a run can tell.

    Where 20 dB were asked of the inputs of 27 of SmolLM2-135M's down projections, the rest had in truth at least 19.93 dB,
    and 18.4 dB in one; to go by the least instead would have kept 14 of them whole.
    """
    absmax = summary.channel_absmax
    order = (-absmax).argsort(kind="stable")
    for n in range(1, min(len(order) - 1, max(1, len(order) // _ONE_IN)) + 1):
        threshold = float(absmax[order[n]])
        if threshold == absmax[order[n - 1]] or not threshold:
            continue  # a tie: one more channel changes nothing of the rest
        n_below = n * summary.n_tokens - summary.n_above(threshold)  # elements of the kept channels: all others are there
        rest, least = summary.sqnr_db_up_to(quantize, threshold, max(0, n_below))
        if rest >= sqnr:
            channels = [int(channel) for channel in order[:n]]
            figures = {"sqnr_db_of_rest": rest, "sqnr_db_of_rest_least": least}
            return {"keep": "channels", "channels": channels, "threshold": threshold} | figures
    return {"keep": "site", "channels": [], "threshold": None, "sqnr_db_of_rest": None, "sqnr_db_of_rest_least": None}


def _short_of_room(run: Run, judged: list[str], largest: float) -> Iterator[dict]:
    for name in judged:
        summary = run.sites[name]
        if summary.absmax > largest:
            absmax = summary.channel_absmax
            channels = [int(channel) for channel in (-absmax).argsort(kind="stable") if absmax[channel] > largest]
            few = 0 < len(channels) <= max(1, len(absmax) // _ONE_IN)  # an imported run knows no channels
            found = {"site": name, "layer": site_layer(name), "absmax": summary.absmax}
            yield found | {"keep": "channels" if few else "site", "channels": channels}

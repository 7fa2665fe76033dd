"""Whether a run keeps within a format's range, or within an error: for CI. Needs no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from rich import box
from rich.table import Table

from maxact_kernels.summary import Summary

from .limits import LIMITS, limit_of
from .run import ROUTERS, Place, Run, matching, place_of, site_kind, token_of
from .words import PARTIAL, counted, decibel, number, percent, room, safe

# Where a norm reads: the residual stream, and in some architectures (Gemma 2, OLMo 2) what is added to it.
SQUARED = ("embedding_output", "attn_output", "mlp_output", "hidden")

_SHOWN, _SITES_SHOWN = 2, 20  # channels and tokens of an offending site, offending sites; JSON holds all


@dataclass(frozen=True)
class Failure:
    """A site that does not keep within a rule."""

    site: str
    rule: str  # "finite", "measured", a limit as it was given, or "sqnr"
    why: str
    figures: dict[str, float | int | None]
    channels: list[int] = field(default_factory=list)  # every one over the limit, the largest first
    elements: list[dict] = field(default_factory=list)  # the largest: value, sample, position, feature, text


@dataclass(frozen=True)
class Verdict:
    """What one rule found: how many sites it judged, those that fail, and the room that is left at the closest site."""

    rule: str
    n_sites: int
    failures: list[Failure]
    closest: str | None
    headroom: float | None  # limit / absmax at that site as a factor; for sqnr what is over the demand, in dB
    says: str


@dataclass(frozen=True)
class Quantizer:
    """The quantizer that a demand on SQNR is about. threshold: of `Summary.quantization_error`, or "per-token"."""

    format: str = "int8"
    threshold: str | float = "max"


def check(
    run: Run,
    limits: list[str],
    sqnr_db: float | None = None,
    quantizer: Quantizer | None = None,
    patterns: list[str] | None = None,
) -> list[Verdict]:
    """Judge a run: every value finite, |x| within each limit, SQNR of at least `sqnr_db` under `quantizer`.

    limits: names of LIMITS or positive numbers as text. patterns: only these sites (fnmatch); by default all sites for
    a plain limit, what norms read for fp16-square, the inputs of projections for SQNR (if none was measured, all but
    routers). Raises ValueError for a limit or pattern that means nothing here.
    """
    if not run.sites:
        raise ValueError("this run has no site, so there is nothing to check")
    chosen = matching(list(run.sites), patterns or ())
    verdicts = [_finite(run, chosen)]
    for name in limits:
        sites = chosen
        if name == "fp16-square" and not patterns:
            sites = [site for site in chosen if site_kind(site).removesuffix("_2") in SQUARED]
            if not sites:
                raise ValueError(f"{name}: this run has none of the sites that norms read ({', '.join(SQUARED)})")
        verdicts.append(_within(run, sites, name, limit_of(name)))
    if sqnr_db is not None:
        if not math.isfinite(sqnr_db):
            raise ValueError(f"sqnr: {sqnr_db}, expected a finite number of dB")
        sites = chosen if patterns else judged_by_sqnr(chosen)
        verdicts.append(_accurate(run, sites, sqnr_db, quantizer or Quantizer()))
    return verdicts


def is_projection_input(site: str) -> bool:
    """Whether W8A8 quantizes what this site measures. `_2`: of a layer that has two of a kind."""
    return site_kind(site).removesuffix("_2").endswith(("_input", "_act"))


def judged_by_sqnr(sites: list[str]) -> list[str]:
    """Those of these sites that a quantizer reads: the inputs of projections; if none was measured, all but routers."""
    inputs = [name for name in sites if is_projection_input(name)]
    return inputs or [name for name in sites if site_kind(name) not in ROUTERS]


def number_or_name(threshold: str) -> str | float:
    try:
        return float(threshold)
    except ValueError:
        return threshold


def describe(verdicts: list[Verdict], run: Run) -> Iterator[str | Table]:
    """The verdicts for a terminal."""
    if run.partial:
        yield f"PARTIAL: {PARTIAL}."
    for verdict in verdicts:
        yield f"{'FAIL' if verdict.failures else 'ok'}  {verdict.says}"
        if verdict.failures:
            yield _table(verdict.failures[:_SITES_SHOWN])
            if len(verdict.failures) > _SITES_SHOWN:
                yield f"… and {counted(len(verdict.failures) - _SITES_SHOWN, 'more site')}; --json names all."


def to_json(verdicts: list[Verdict], run: Run) -> dict:
    passed = not any(verdict.failures for verdict in verdicts)
    return {"passed": passed, "partial": run.partial, "rules": [asdict(verdict) for verdict in verdicts]}


def _finite(run: Run, sites: list[str]) -> Verdict:
    failures = []
    for name in sites:
        summary = run.sites[name]
        if summary.n_nan != 0 or summary.n_inf != 0:  # None: there are some, in a run that does not say how many
            figures = {"n_nan": summary.n_nan, "n_inf": summary.n_inf}
            elements = []
            if summary.first_nonfinite:
                token, feature = summary.first_nonfinite
                sample, position, expert = token_of(name, token)
                elements.append(_element(run, Place(name, sample, position, feature, None, expert)))  # nan or inf
            channels = [element["feature"] for element in elements]
            why = f"{number(summary.n_nan)} nan, {number(summary.n_inf)} inf"
            failures.append(Failure(name, "finite", why, figures, channels, elements))
        elif not summary.n_elements:
            failures.append(Failure(name, "measured", "no element was measured", {"n_elements": 0}))
    says = f"finite: {len(sites) - len(failures)} of {counted(len(sites), 'site')} measured, with neither nan nor inf."
    return Verdict("finite", len(sites), failures, None, None, says)


def _within(run: Run, sites: list[str], name: str, limit: float) -> Verdict:
    failures, largest = [], {}
    for site in sites:
        summary = run.sites[site]
        if summary.n_elements:
            largest[site] = summary.absmax
        if summary.absmax > limit:
            failures.append(_over(run, site, summary, name, limit))
    failures.sort(key=lambda failure: -failure.figures["absmax"])
    closest = max(largest, key=largest.get, default=None)
    headroom = limit / largest[closest] if closest and largest[closest] else None
    title = f"{name}: |x| ≤ {number(limit)}" if name in LIMITS else f"|x| ≤ {number(limit)}"
    if failures:
        says = f"{title}: {len(failures)} of {counted(len(sites), 'site')} over it."
    elif headroom is None:
        says = f"{title}: no value other than 0 in {counted(len(sites), 'site')}."
    else:
        says = (
            f"{title}: {counted(len(sites), 'site')} within it, the closest {safe(closest)} at "
            f"{number(largest[closest])}, {room(largest[closest], limit)}."
        )
    if name == "fp16-square":
        says += " This is the square of one element; a sum of squares kept in fp16 is over sooner."
    return Verdict(name, len(sites), failures, closest, headroom, says)


def _over(run: Run, site: str, summary: Summary, name: str, limit: float) -> Failure:
    channels = summary.channel_absmax
    over = [int(c) for c in (-channels).argsort(kind="stable") if channels[c] > limit]
    elements = _elements(run, site, summary, sum(abs(value) > limit for value in summary.topk.values))
    figures = {"absmax": summary.absmax, "times_over": summary.absmax / limit}
    figures["n_channels"] = len(over) if len(channels) else None  # an imported run knows no channels
    # Of float32 the table knows magnitudes by their bin only, so how many lie over a limit is not known exactly.
    n_over = summary.n_above(limit) if summary.options.counts and summary.exact else None
    figures["n_elements_over"] = n_over
    why = f"{number(summary.absmax)}, {room(summary.absmax, limit)}"
    return Failure(site, name, why, figures, over, elements)


def _elements(run: Run, site: str, summary: Summary, n: int) -> list[dict]:
    """The n largest, with the text of their tokens; none of an imported run, which knows no places."""
    places = [place_of(site, summary, rank) for rank in range(min(n, len(summary.topk.values)))]
    return [_element(run, place) for place in places if place.feature is not None]


def _element(run: Run, place: Place) -> dict:
    element = {key: value for key, value in place.to_json().items() if key != "site"}
    return element | {"text": run.token_text(place.sample, place.position)}


def _accurate(run: Run, sites: list[str], sqnr_db: float, quantizer: Quantizer) -> Verdict:
    failures, found = [], {}
    for site in sites:
        summary = run.sites[site]
        if not summary.absmax:
            continue  # zeros are quantized without an error
        figures = error_figures(summary, quantizer)
        found[site] = figures
        if figures["sqnr_db_least"] < sqnr_db:
            why = f"{decibel(figures['sqnr_db'])} dB"
            elements = _elements(run, site, summary, _SHOWN)
            channels = [element["feature"] for element in elements[:1]]
            failures.append(Failure(site, "sqnr", why, figures, channels, elements))
    failures.sort(key=lambda failure: failure.figures["sqnr_db_least"])
    closest = min(found, key=lambda site: found[site]["sqnr_db_least"], default=None)
    what = f"sqnr: {safe(quantizer.format)}, {_scaled(quantizer.threshold)}, at least {sqnr_db:g} dB"
    if failures:
        says = f"{what}: less in {len(failures)} of {counted(len(sites), 'site')}."
    elif closest is None:
        says = f"{what}: no value other than 0 in {counted(len(sites), 'site')}."
    else:
        says = f"{what}: so in {counted(len(sites), 'site')}, the least {safe(closest)} with {_with_beside(found[closest])}."
    headroom = found[closest]["sqnr_db_least"] - sqnr_db if closest else None
    return Verdict("sqnr", len(sites), failures, closest, headroom, says)


def _with_beside(figures: dict) -> str:
    per_token = figures["int8_per_token_db"]
    beside = [] if per_token is None else [f"INT-8 per token {decibel(per_token)} dB"]
    beside += [] if figures["zeroed"] is None else [f"{percent(figures['zeroed'])} zeroed"]
    beside.append(f"M / rms {number(figures['absmax_by_rms'])}")
    return f"{decibel(figures['sqnr_db_least'])} dB ({', '.join(beside)})"


def error_figures(summary: Summary, quantizer: Quantizer) -> dict:
    """SQNR with what it does not say on its own: per token, what became zero, and how far the peak stands out.

    sqnr_db_least: what sqnr_db cannot be below. Of float32 magnitudes are known by their bin only, else both are the same.
    """
    per_token = summary.int8_per_token.sqnr_db if summary.options.int8_per_token else None
    beside = {"int8_per_token_db": per_token, "absmax": summary.absmax, "absmax_by_rms": summary.absmax / summary.rms}
    if quantizer.threshold == "per-token":
        if quantizer.format != "int8":
            raise ValueError(f"format: {quantizer.format!r} per token, expected int8: only its error is in a run")
        known = summary.int8_per_token.sqnr_db
        return {"sqnr_db": known, "sqnr_db_least": known, "zeroed": None} | beside
    error = summary.quantization_error(quantizer.format, quantizer.threshold)
    sqnr = {"sqnr_db": error.sqnr_db, "sqnr_db_least": error.sqnr_db_bounds[0]}
    return sqnr | {"zeroed": error.zeroed, "clip_rate": error.clip_rate} | beside


def _scaled(threshold: str) -> str:
    return "a scale per token" if threshold == "per-token" else f"one scale per tensor at {threshold}"


def _table(failures: list[Failure]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("site", no_wrap=True)
    if failures[0].rule == "sqnr":
        for heading in ("SQNR dB", "per token", "zeroed", "M / rms", "channel of M"):
            table.add_column(heading, justify="right")
        for failure in failures:
            f = failure.figures
            per_token = f["int8_per_token_db"]
            table.add_row(
                safe(failure.site),
                decibel(f["sqnr_db_least"]),
                "–" if per_token is None else decibel(per_token),
                percent(f["zeroed"]),
                number(f["absmax_by_rms"]),
                ", ".join(map(str, failure.channels)),
            )
        return table
    finite = failures[0].rule in ("finite", "measured")
    headings = ("holds", "", "first in channel") if finite else ("absmax", "elements", "channels")
    for heading in (*headings, "token, as sample:position"):
        table.add_column(heading)
    for failure in failures:
        n_over = failure.figures.get("n_elements_over")
        table.add_row(
            safe(failure.site),
            failure.why,
            "" if finite else number(n_over),
            _some([str(channel) for channel in failure.channels], len(failure.channels)),
            _some(*_tokens(failure.elements, n_over)),
        )
    return table


def _tokens(elements: list[dict], n_over: int | None) -> tuple[list[str], int | None]:
    """The tokens of these elements, each once, and how many there are; None if elements that were not kept have more."""
    tokens = dict.fromkeys((e["sample"], e["position"], e.get("expert"), e["text"]) for e in elements)
    shown = []
    for sample, position, expert, text in tokens:
        place = ":".join("–" if part is None else str(part) for part in (sample, position))
        of_expert = "" if expert is None else f" in expert {expert}"
        shown.append(("" if text is None else f"{safe(text)} at ") + place + of_expert)
    return shown, len(shown) if n_over in (None, len(elements)) else None


def _some(texts: list[str], n: int | None) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(texts[:_SHOWN]) or "–"
    if n is None:
        return f"{shown} and {len(texts) - _SHOWN}+ more" if len(texts) > _SHOWN else f"{shown} or more"
    return shown if n <= _SHOWN else f"{shown} and {n - _SHOWN} more"

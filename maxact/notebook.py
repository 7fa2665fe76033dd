"""How a run shows itself where Python shows values: a line of text, and a small table in a notebook."""

from __future__ import annotations

from html import escape

from .markdown import printable
from .run import Place, Run, site_kind
from .words import counted, number

_KINDS = 20  # more than any model has


def line(run: Run) -> str:
    """Run(smollm2-135m, bfloat16, 6,144 tokens, 242 sites, M = 27,520 at layer_11_mlp_output)"""
    return f"Run({', '.join(_facts(run))})"


def html(run: Run) -> str:
    """M, what was measured, and a row for each kind of site; no script, no style that reaches beyond it."""
    where = "".join(f" at {_where(run, place)}" for place in run.peaks()[:1])
    said = f"<div><b>M = {_html(number(run.M))}</b>{where}</div><div>{_html(' · '.join(_facts(run)[:-1]))}</div>"
    headings = ("kind", "sites", "absmax", "at", "largest ratio", "massive tokens", "nan or inf")
    rows = "".join(_row(run, kind) for kind in list(dict.fromkeys(map(site_kind, run.sites)))[:_KINDS])
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<div>{said}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _facts(run: Run) -> list[str]:
    model, n_tokens = run.provenance.get("model", {}), run.provenance.get("n_tokens")
    facts = [printable(model[key]) for key in ("model_id", "dtype") if model.get(key)]
    facts += [counted(n_tokens, "token")] if isinstance(n_tokens, int) else []
    facts += [counted(len(run.sites), "site")] + ["partial"] * run.partial
    where = f" at {printable(run.peaks()[0].site)}" if run.peaks() else ""
    return [*facts, f"M = {number(run.M)}{where}"]


def _where(run: Run, place: Place) -> str:
    where = _html(place.site)
    if place.position is None:  # an imported run, or a row of an expert that has no room for it
        return where
    token = run.token_text(place.sample, place.position)
    shown = "" if token is None else f" <code>{_html(token)}</code>"
    return f"{where}, channel {place.feature}, token{shown} at position {place.position} of sample {place.sample}"


def _row(run: Run, kind: str) -> str:
    sites = {name: summary for name, summary in run.sites.items() if site_kind(name) == kind}
    top = max(sites, key=lambda name: sites[name].absmax)
    ratios = [s.ratio_max for s in sites.values() if s.ratio_max == s.ratio_max]
    massive = [s.n_massive_tokens for s in sites.values()]
    bad = sum((s.n_nan or 0) + (s.n_inf or 0) for s in sites.values())
    cells = [
        kind,
        len(sites),
        number(sites[top].absmax),
        top,
        number(max(ratios)) if ratios else "–",
        "–" if None in massive else number(sum(massive)),
        number(bad) if bad else "none",
    ]
    return f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in cells)}</tr>"


def _html(value) -> str:
    return escape(printable(value))

"""What a sweep over a vocabulary found, as text for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from .run import Run, place_of, site_kind, site_layer
from .show import not_finite
from .words import number, ranges, safe

_TOKENS = 3  # of a layer


def print_sweep(run: Run, console: Console) -> None:
    swept, model = run.provenance["sweep"], run.provenance.get("model", {})
    where = "alone at position 0" if swept["position"] == 0 else "at position 1, after the BOS token"
    tokens = f"{number(run.provenance['n_tokens'])} of {number(swept['n_vocabulary'])} tokens, each {where}"
    console.print(" · ".join([safe(model.get("model_id")), safe(model.get("dtype")), tokens]))
    if run.partial:
        console.print("PARTIAL: the sweep was interrupted.")
    elif swept["exhaustive"] is None:
        console.print(
            "Whether this is exhaustive cannot be said: nan or inf hides whether position 0 sees what follows."
        )
    elif swept["exhaustive"]:
        console.print(
            "Exhaustive: what stands at this position is the same whatever follows, so no text exceeds M there, but for rounding."
        )
    else:
        console.print("Not exhaustive: what stands at position 0 depends on what follows.")
    for line in [*not_finite(run), f"M = {number(run.M)}"]:
        console.print(line)
    groups: dict[tuple[int, str], list[str]] = {}  # sites of one channel and the same tokens
    for place in run.peaks():
        tokens = _tokens(swept["sites"][place.site])
        groups.setdefault((place.feature, tokens), []).append(place.site)
    for (channel, tokens), names in groups.items():
        console.print(f"  at {ranges(names)}, channel {channel}: {tokens}")
    console.print(_table(run, swept["sites"]))


def _table(run: Run, sites: dict) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.caption = "the residual stream after each layer; tokens with their ids, the largest first"
    for heading in ("layer", "absmax", "channel"):
        table.add_column(heading, justify="right")
    table.add_column("tokens", overflow="fold")
    for name, summary in run.sites.items():
        if site_kind(name) == "hidden" and summary.n_elements:
            channel = str(place_of(name, summary, 0).feature)
            table.add_row(str(site_layer(name)), number(summary.absmax), channel, _tokens(sites[name]))
    return table


def _tokens(tokens: list[dict]) -> str:
    return ", ".join(f"{safe(t['text'])} ({t['id']}) {number(t['absmax'])}" for t in tokens[:_TOKENS])

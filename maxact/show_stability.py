"""What `stability` found, as text for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from .words import number, percent, safe

_SHOWN = 10  # sites, those that grow most


def print_stability(found: dict, console: Console) -> None:
    boot = found["bootstrap"]
    for line in (
        found["verdict"],
        f"M = {number(found['M'])} over {number(found['n_samples'])} samples; {percent(boot['level'], '.0f')} bootstrap interval "
        f"{number(boot['low'])} to {number(boot['high'])}.",
        f"With 95 % confidence at most {percent(found['exceeding_share'], '.2f')} of samples like these exceed M.",
    ):
        console.print(line)
    if found["left_out"]:
        console.print(
            f"Left out, as they know experts instead of samples: {len(found['left_out'])} sites, whose largest |x| is "
            f"{number(found['left_out_M'])}."
        )
    for table in (_curve(found), _paper(found), _domains(found), _sites(found)):
        console.print(table)


def _table(*headings: str, caption: str, text: int = 0) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < text else "right")
    return table


def _curve(found: dict) -> Table:
    quantiles = list(found["curve"][0]["quantiles"])
    headings = [f"q{q}" for q in quantiles]
    table = _table("samples", "expected M", "cv", *headings, caption="M over all subsets of so many samples, exact")
    for row in found["curve"]:
        values = [number(row["quantiles"][q]) for q in quantiles]
        table.add_row(number(row["n"]), number(row["mean"]), percent(row["cv"], ".2f"), *values)
    return table


def _paper(found: dict) -> Table:
    caption = (
        "subsets as arXiv 2605.15572 drew them: in proportion to the domains, five of each\nits CV is range / mean"
    )
    table = _table("samples", "expected M", "cv", "range / mean", "five draws", caption=caption)
    for row in found["paper"]:
        draws = "  ".join(number(value) for value in row["draws"])
        spread = percent(row["range_over_mean"], ".2f")
        table.add_row(number(row["n"]), number(row["mean"]), percent(row["cv"], ".2f"), spread, draws)
    return table


def _domains(found: dict) -> Table:
    table = _table("domain", "samples", "M", "per doubling", caption="the same for the samples of each domain", text=1)
    for name, row in sorted(found["domains"].items(), key=lambda item: -item[1]["M"]):
        table.add_row(safe(name), number(row["n_samples"]), number(row["M"]), percent(row["growth_per_doubling"], "+.2f"))
    return table


def _sites(found: dict) -> Table:
    growing = sorted(found["sites"].items(), key=lambda item: -item[1]["growth_per_doubling"])
    caption = f"of {len(growing)} sites those that the last doubling raised most"
    table = _table("site", "absmax", "per doubling", "samples at 99 %", caption=caption, text=1)
    for name, row in growing[:_SHOWN]:
        grows = percent(row["growth_per_doubling"], "+.2f")
        table.add_row(safe(name), number(row["absmax"]), grows, number(row["n_near"]))
    return table

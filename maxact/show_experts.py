"""The experts of a run as text for a terminal: a row a layer, and the experts with the largest values."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from .run import Run, site_layer
from .words import number

_LARGEST = 10  # experts of the second table
_LISTED = 6  # experts without a token that a row names


class Layer(NamedTuple):
    """The experts of one layer, in lists by expert."""

    layer: int
    absmax: list[float]
    n_tokens: list[int]
    n_massive_tokens: list[int]

    @property
    def without_token(self) -> list[int]:
        return [e for e, n in enumerate(self.n_tokens) if not n]

    @property
    def median_absmax(self) -> float:
        """Of the experts that saw a token; 0 if none did."""
        return statistics.median_low([v for v, n in zip(self.absmax, self.n_tokens, strict=True) if n] or [0.0])


def layers_of(run: Run) -> list[Layer]:
    return [Layer(site_layer(site), **experts) for site, experts in run.experts().items()]


def print_experts(run: Run, console: Console) -> None:
    """Print both tables. Raises ValueError if the run holds no experts."""
    layers = layers_of(run)
    if not layers:
        raise ValueError(
            "kind: 'experts' were not measured in this run; measure a model with experts with --sites gemm, or with "
            "'*_experts_act' among the sites"
        )
    console.print(_layer_table(layers))
    console.print()
    console.print(_largest_table(layers))


def _layer_table(layers: list[Layer]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "layer", "experts", "absmax", "expert", "median", "most tokens", "expert", "even", "massive", "in experts", "no token"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for of in layers:
        largest, busiest = (max(range(len(v)), key=v.__getitem__) for v in (of.absmax, of.n_tokens))
        n_rows = sum(of.n_tokens)
        table.add_row(
            str(of.layer),
            str(len(of.absmax)),
            number(of.absmax[largest]),
            str(largest),
            number(of.median_absmax),
            number(of.n_tokens[busiest]),
            str(busiest),
            f"{of.n_tokens[busiest] * len(of.n_tokens) / n_rows:.1f}x" if n_rows else "–",
            number(sum(of.n_massive_tokens)),
            str(sum(n > 0 for n in of.n_massive_tokens)),
            _listed(of.without_token),
        )
    table.caption = (
        "median: of absmax over the experts that saw a token · even: tokens of that expert over an even share\n"
        "massive: tokens that pass the Sun test, counted at every expert they go to · no token: how many experts, which"
    )
    table.caption_justify = "left"
    return table


def _listed(experts: list[int]) -> str:
    if not experts:
        return "0"
    shown = ", ".join(map(str, experts[:_LISTED])) + (", …" if len(experts) > _LISTED else "")
    return f"{len(experts)}: {shown}"


def _largest_table(layers: list[Layer]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("largest experts")
    for heading in ("absmax", "over median", "tokens", "massive"):
        table.add_column(heading, justify="right")
    every = [(of, e) for of in layers for e in range(len(of.absmax)) if of.n_tokens[e]]
    for of, e in sorted(every, key=lambda pair: -pair[0].absmax[pair[1]])[:_LARGEST]:
        table.add_row(
            f"layer_{of.layer}_expert_{e}_act",
            number(of.absmax[e]),
            f"{of.absmax[e] / of.median_absmax:.1f}x" if of.median_absmax else "–",
            number(of.n_tokens[e]),
            number(of.n_massive_tokens[e]),
        )
    return table

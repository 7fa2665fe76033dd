"""Which sites a run has, of those its model could have, as text for a terminal: a row a kind."""

from __future__ import annotations

from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .run import Run
from .words import number

_LONGEST = 400  # characters of a note: a file may claim anything


class Row(NamedTuple):
    """Of one kind: how many sites the model has, how many saw tensors, and why layers (or all) have none."""

    kind: str
    expected: int
    fired: int
    note: str


def coverage_of(run: Run) -> list[Row]:
    """The rows that the run's provenance holds in good order."""
    rows = run.provenance.get("coverage")
    found = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            counts = row.get("expected"), row.get("fired")
            texts = row.get("kind"), row.get("note")
            if all(type(n) is int for n in counts) and all(isinstance(text, str) for text in texts):
                found.append(Row(texts[0], *counts, texts[1]))
    return found


def print_coverage(run: Run, console: Console) -> None:
    """Print the table. Raises ValueError if the run holds none."""
    rows = coverage_of(run)
    if not rows:
        raise ValueError("kind: 'coverage' is not in this run; runs that were imported have none")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind")
    table.add_column("sites", justify="right")
    table.add_column("fired", justify="right")
    table.add_column("where there is none", overflow="fold")
    for row in rows:
        table.add_row(Text(_plain(row.kind)), number(row.expected), number(row.fired), Text(_plain(row.note)))
    console.print(table)


def _plain(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"

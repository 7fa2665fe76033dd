"""What every command prints with: a console that trusts no text, JSON, notes and progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console():
    from rich.console import Console

    # Tokens and names come from others: no markup, no emoji codes. Wide enough for the tables where nobody looks.
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)


def print_json(value) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


class progress:
    """A bar on stderr with tokens per second and the running M; without a terminal a line every ten seconds."""

    def __enter__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        err = Console(stderr=True)
        self.bar = Progress(
            TextColumn("measuring"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TextColumn("M = {task.fields[M]:,.6g}"),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self.task, self.said = None, 0.0
        self.bar.start()
        return self.update

    def update(self, progress) -> None:
        speed = progress.n_tokens / progress.seconds
        if self.task is None:
            self.task = self.bar.add_task("", total=progress.n_tokens_total, speed=0.0, M=0.0)
        self.bar.update(self.task, completed=progress.n_tokens, speed=speed, M=progress.M)
        if self.bar.disable and (progress.seconds - self.said > 10 or progress.n_tokens == progress.n_tokens_total):
            self.said = progress.seconds
            note(
                f"measured {progress.n_tokens:,} of {progress.n_tokens_total:,} tokens, {speed:,.0f} tokens/s, "
                f"M = {progress.M:,.6g}"
            )

    def __exit__(self, *exception) -> None:
        self.bar.stop()

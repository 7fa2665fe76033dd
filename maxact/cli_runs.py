"""Commands on run directories: they need neither a model nor a GPU, and import PyTorch nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import AsJson, console, note, print_json

app = typer.Typer()


@app.command(epilog="Example: maxact show runs/smollm2-135m --kind mlp_output")
def show(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    kind: Annotated[str, typer.Option(help="Which sites to tabulate.")] = "hidden",
    as_json: AsJson = False,
) -> None:
    """Print a run: M and its place, a table over layers, a picture."""
    from .run import Run

    print_run(Run.load(run), as_json, kind)


@app.command(epilog="Example: maxact stability runs/smollm2-135m")
def stability(run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: AsJson = False) -> None:
    """Is M the maximum? What the run's samples say about more samples, fewer and others; without the model."""
    from .run import Run
    from .stability import stability as examine

    found = examine(Run.load(run))
    if as_json:
        print_json(found)
    else:
        from .show_stability import print_stability

        print_stability(found, console())


@app.command(epilog="Example: maxact export runs/smollm2-135m --format max-act-llm -o published")
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    form: Annotated[str, typer.Option("--format", help="max-act-llm: the files that arXiv 2605.15572 publishes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path(),
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run in the format of another tool."""
    from .export import export as write
    from .run import Run

    paths, notes = write(Run.load(run), form, output, overwrite=overwrite)
    if as_json:
        print_json({"files": [str(path) for path in paths], "notes": notes})
        return
    for sentence in notes:
        note(sentence)
    for path in paths:
        print(path)


def print_run(run, as_json: bool, kind: str = "hidden") -> None:
    from .show import print_run as print_for_people

    if as_json:
        print_json(run.to_json())
    else:
        print_for_people(run, console(), kind)

"""Commands on corpora: `maxact corpus build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import AsJson, note, print_json

app = typer.Typer(no_args_is_help=True)


@app.callback(epilog="Example: maxact corpus build paper -o paper.jsonl")
def corpus() -> None:
    """Make corpora."""


@app.command(epilog="Example: maxact corpus build recipe.toml -o corpus.jsonl")
def build(
    recipe: Annotated[str, typer.Argument(help="A recipe (TOML), or paper: the protocol of arXiv 2605.15572.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .jsonl file; its manifest goes beside it.")],
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a fixed sample set: domains, lengths and order by a recipe. Exit code 1 if sources ran out of documents."""
    from .corpus_build import build_corpus, write_corpus
    from .recipe import read_recipe

    if output.suffix != ".jsonl":
        raise ValueError(f"output: {output.name!r}, expected a .jsonl file")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output}: exists; name another file or add --overwrite")
    wanted = read_recipe(recipe)
    tokenizer = None
    if wanted.tokenizer:
        from .tokenizer import load_tokenizer

        tokenizer = load_tokenizer(wanted.tokenizer)
    made, manifest = build_corpus(wanted, tokenizer, note)
    beside = write_corpus(made, manifest, output)
    if as_json:
        print_json(manifest)
    else:
        for domain, row in manifest["domains"].items():
            short = f", {row['n_short']:,} of them short" if row["n_short"] else ""
            print(f"{domain!r}: {row['n_samples']:,} of {row['target']:,} samples{short}")
        print(f"digest {manifest['digest']}")
    note(f"Written to {output} and {beside.name}.")
    if manifest["n_missing"]:
        note(f"The sources have too few documents: {manifest['n_missing']:,} samples are missing.")
        raise typer.Exit(1)

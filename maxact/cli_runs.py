"""Commands on run directories: they need neither a model nor a GPU, and import PyTorch nowhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .terminal import AsJson, console, note, print_json

app = typer.Typer()

OnlySites = Annotated[str | None, typer.Option(help="Only these names and patterns: 'layer_*_hidden'.")]


@app.command(epilog="Example: maxact show runs/smollm2-135m --kind mlp_output")
def show(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    kind: Annotated[str, typer.Option(help="Which sites to tabulate: hidden, mlp_output ..., experts, or coverage.")] = "hidden",
    as_json: AsJson = False,
) -> None:
    """Print a run: M and its place, a table over layers, a picture."""
    from .run import Run

    print_run(Run.load(run), as_json, kind)


@app.command(epilog="Example: maxact report runs/mine runs/mine-bos -o report.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one page to explore these runs in: no network, no server, opens in any browser."""
    from .report import write_report

    size = write_report(runs, output)
    note(f"Written to {output} ({size / 1e6:,.1f} MB).")


@app.command(epilog="Example: maxact merge runs/shard-* -o runs/whole")
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, from measure --shard K/N.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run directory to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make one run of shards measured apart: the same bits as one measurement. Refuses what does not belong together."""
    from .merging import merge_runs
    from .run import Run, check_output

    check_output(output, overwrite)
    run = merge_runs(((str(path), Run.load(path)) for path in runs), note)
    run.save(output, overwrite=overwrite)
    print_run(run, as_json)
    note(f"Written to {output}.")


@app.command(epilog="Example: maxact compare runs/base runs/instruct --top 10")
def compare(
    a: Annotated[Path, typer.Argument(help="A run directory.")],
    b: Annotated[Path, typer.Argument(help="The run directory that is set against it.")],
    top: Annotated[int, typer.Option(min=0, help="How many sites to show; 0 for all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Say what changed from one run to another: by site, in factors, the largest change first."""
    from . import compare as comparing
    from .run import Run, plain

    found = comparing.compare(Run.load(a), Run.load(b))
    if as_json:
        print_json(plain(comparing.to_json(found)))
    else:
        print_parts(comparing.describe(found, top or None))


@app.command(epilog="Example: maxact check runs/mine --limit fp16 --sqnr 20 --format int8")
def check(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    limit: Annotated[
        list[str], typer.Option(help="Largest |x| allowed: fp16, fp16-square, e4m3, e5m2 or a number. May be repeated.")
    ] = [],  # noqa: B006
    sqnr: Annotated[float | None, typer.Option(help="Least SQNR of a site, in dB.")] = None,
    fmt: Annotated[str, typer.Option("--format", help="Of --sqnr: int2 to int16, fp8_e4m3, fp8_e5m2.")] = "int8",
    threshold: Annotated[
        str, typer.Option(help="Of --sqnr: max, q0.999 (any quantile), mse, a number, or per-token (int8).")
    ] = "max",
    sites: OnlySites = None,
    as_json: AsJson = False,
) -> None:
    """For CI: exit code 1 if a site holds nan or inf, is over a limit, or has less SQNR than demanded.

    A limit judges every site, fp16-square (x^2 in fp16) those that norms read.
    --sqnr judges the inputs of the projections if the run has them. --sites chooses others.
    """
    from . import check as checking
    from .run import Run, plain

    if not limit and sqnr is None:
        raise ValueError("name what to check: --limit, --sqnr, or both")
    loaded = Run.load(run)
    quantizer = checking.Quantizer(fmt, checking.number_or_name(threshold))
    verdicts = checking.check(loaded, limit, sqnr, quantizer, sites.split(",") if sites else None)
    if as_json:
        print_json(plain(checking.to_json(verdicts, loaded)))
    else:
        print_parts(checking.describe(verdicts, loaded))
    if any(verdict.failures for verdict in verdicts):
        raise typer.Exit(1)


@app.command(epilog="Example: maxact stability runs/smollm2-135m")
def stability(
    run: Annotated[Path, typer.Argument(help="A run directory.")], sites: OnlySites = None, as_json: AsJson = False
) -> None:
    """Is M the maximum? What the run's samples say about more samples, fewer and others; without the model."""
    from .run import Run
    from .stability import stability as examine

    loaded = Run.load(run)
    found = examine(loaded, sites.split(",") if sites else ())
    if as_json:
        print_json(found)
    else:
        from .show import not_finite
        from .show_stability import print_stability

        print_parts(not_finite(loaded))
        print_stability(found, console())


@app.command(epilog="Example: maxact export runs/smollm2-135m --format max-act-llm -o published")
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    form: Annotated[str, typer.Option("--format", help="One of those above.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path(),
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    quantize: Annotated[
        str | None, typer.Option(help="input-scales: fp8_e4m3 (if left out) or int8; keep: int8 (if left out), int4 ...")
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="input-scales: max (if left out), q0.999 (any quantile), mse or a number.")
    ] = None,
    sqnr: Annotated[float | None, typer.Option(help="keep: least SQNR of what is quantized, in dB.")] = None,
    limit: Annotated[str | None, typer.Option(help="keep: a limit of maxact check.")] = None,
    headroom: Annotated[float | None, typer.Option(help="keep: factor to stay below the limit by; 1 if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run in the format of another tool.

    \b
    max-act-llm: the files that arXiv 2605.15572 publishes
    smoothquant: act_scales, largest |x| by module and channel
    input-scales: static, per tensor, named as by compressed-tensors
    channel-absmax: largest |x| by site and channel
    csv, parquet: a row a site, with every single number
    keep: layers, sites and channels to keep in high precision
    """
    from .check import number_or_name
    from .export import export as write
    from .run import Run

    options = dict(quantize=quantize, threshold=threshold, sqnr=sqnr, limit=limit, headroom=headroom)
    options = {name: value for name, value in options.items() if value is not None}
    if threshold is not None:
        options["threshold"] = number_or_name(threshold)
    paths, notes = write(Run.load(run), form, output, overwrite=overwrite, **options)
    if as_json:
        print_json({"files": [str(path) for path in paths], "notes": notes})
        return
    for sentence in notes:
        note(sentence)
    for path in paths:
        print(path)


@app.command("import", epilog="Example: maxact import Max_act_llm/results -o runs/published")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="*_activation_stats.json, *_top5_stats.json, *_quant_sanity.json, or folders.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the run directories go.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option(help="Replace runs that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make run directories of files that others published (max-act-llm); a model with a bad file gets none."""
    from .max_act_llm_import import LACKS, import_files
    from .run import plain

    rows = []
    for found in import_files(files, output, overwrite=overwrite):
        rows.append({"name": found.name, "directory": found.directory and str(found.directory), "fault": found.fault})
        rows[-1] |= {"M": found.run and plain(found.run.M), "notes": found.notes}
        if found.fault:
            note(f"maxact: {found.name} was not imported: {found.fault}")
        elif not as_json:
            print(f"{found.directory}: M = {found.run.M:,.6g}, {len(found.run.sites)} sites")
            for sentence in found.notes:
                note(f"{found.name}: {sentence}")
    if as_json:
        print_json(rows)
    elif not all(row["fault"] for row in rows):
        note(f"Such files hold no {LACKS}.")
    if any(row["fault"] for row in rows):
        raise typer.Exit(2)


@app.command(epilog="Example: maxact card runs/smollm2-135m README.md")
def card(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    readme: Annotated[
        Path | None, typer.Argument(help="The card to write the section into; without it, it is printed.")
    ] = None,
    model_index: Annotated[
        bool, typer.Option("--model-index", help="Put M into the metadata as model-index, too.")
    ] = False,
) -> None:
    """Write the section of a model card: M, headroom, SQNR, how it was measured. Run again, it replaces itself.

    It stands between the lines <!-- maxact:begin --> and <!-- maxact:end -->, at the end of a card without them.
    A picture, maxact-absmax.svg, is written beside the card.
    """
    from . import card_file
    from .run import Run

    loaded = Run.load(run)
    if readme is None:
        sys.stdout.buffer.write(card_file.contents(loaded, b"", model_index))
        return
    for path in card_file.write_card(loaded, readme, model_index):
        note(f"Written to {path}.")


def print_run(run, as_json: bool, kind: str = "hidden") -> None:
    from .show import print_run as print_for_people

    if as_json:
        print_json(run.to_json())
    else:
        print_for_people(run, console(), kind)


def print_parts(parts) -> None:
    """Print sentences, each a line, and tables."""
    to = console()
    for part in parts:
        to.print(part, soft_wrap=isinstance(part, str))

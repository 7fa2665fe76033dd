"""A run in the formats of other tools. A format is a function: a Run in, {file name: contents} and notes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from maxact_kernels.storage import write_atomically

from . import export_keep, export_scales, export_table, max_act_llm
from .run import Run
from .words import PARTIAL, counted, safe

Files = dict[str, str | bytes]

# Keyword arguments of a function are the options of its format.
FORMATS: dict[str, Callable[..., tuple[Files, list[str]]]] = {
    "max-act-llm": max_act_llm.files,
    "smoothquant": export_scales.smoothquant,
    "input-scales": export_scales.input_scales,
    "channel-absmax": export_scales.channel_absmax,
    "csv": export_table.comma_separated,
    "parquet": export_table.parquet,
    "keep": export_keep.keep,
}


def export(run: Run, form: str, directory: Path, *, overwrite: bool = False, **options) -> tuple[list[Path], list[str]]:
    """Write a run's files of this format into a directory; their paths, and notes for the user.

    Raises ValueError for an unknown format or option or a run that it cannot hold, FileExistsError before anything is
    written.
    """
    if form not in FORMATS:
        raise ValueError(f"format: {form!r}, expected one of {', '.join(FORMATS)}")
    known = list(inspect.signature(FORMATS[form]).parameters)[1:]
    for name in options:
        if name not in known:
            raise ValueError(f"{name}: no option of the format {form}, which has {', '.join(known) or 'none'}")
    files, notes = FORMATS[form](run, **options)
    notes += _warnings(run)
    paths = [directory / name for name in files]
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: exists; name another directory with --output or add --overwrite")
    directory.mkdir(parents=True, exist_ok=True)
    for path, contents in zip(paths, files.values()):
        write_atomically(path, contents.encode() if isinstance(contents, str) else contents)
    return paths, notes


def _warnings(run: Run) -> list[str]:
    """What no format can say of the run."""
    warnings = [f"The run is partial: {PARTIAL}."] if run.partial else []
    bad = [name for name in run.sites if run.sites[name].n_nan != 0 or run.sites[name].n_inf != 0]
    if bad:
        where = f"{counted(len(bad), 'site')}, first {safe(bad[0])}"
        warnings.append(f"There is nan or inf in {where}; every figure is over the finite elements.")
    return warnings

"""A run in the formats of other tools. A format is a function: a Run in, {file name: contents} and notes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maxact_kernels.storage import write_atomically

from . import max_act_llm
from .run import Run

Files = dict[str, str | bytes]

FORMATS: dict[str, Callable[[Run], tuple[Files, list[str]]]] = {
    "max-act-llm": max_act_llm.files,
}


def export(run: Run, form: str, directory: Path, *, overwrite: bool = False) -> tuple[list[Path], list[str]]:
    """Write a run's files of this format into a directory; their paths, and notes for the user.

    Raises ValueError for an unknown format or a run that it cannot hold, FileExistsError before anything is written.
    """
    if form not in FORMATS:
        raise ValueError(f"format: {form!r}, expected one of {', '.join(FORMATS)}")
    files, notes = FORMATS[form](run)
    paths = [directory / name for name in files]
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: exists; name another directory with --output or add --overwrite")
    directory.mkdir(parents=True, exist_ok=True)
    for path, contents in zip(paths, files.values()):
        write_atomically(path, contents.encode() if isinstance(contents, str) else contents)
    return paths, notes

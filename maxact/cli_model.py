"""What commands that run a model share: its options, and the way to a run directory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .terminal import note, progress

ModelName = Annotated[str, typer.Argument(help="A model directory, a .gguf file, a hub id, or smollm2-135m.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run directory; by default runs/MODEL.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a run that is there.")]
Sites = Annotated[str, typer.Option(help="default, gemm, or names and patterns: 'layer_*_hidden,layer_3_*'.")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Attn = Annotated[str | None, typer.Option(help="Attention implementation: eager, sdpa, flash_attention_2.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model brings; it is recorded.")
]
TokensPerBatch = Annotated[int, typer.Option(min=1, help="Tokens of a batch, padding included.")]
TopK = Annotated[int, typer.Option(min=1, max=1024, help="Largest elements to keep at each site.")]
Backend = Annotated[str | None, typer.Option(help="One of those that maxact doctor lists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that did not end.")]
GOES_ON = "The same command with --resume goes on with it."


class Interrupted(Exception):
    """A measurement was interrupted and gives no run; says what there is to say. Typer would swallow KeyboardInterrupt."""


@contextlib.contextmanager
def measuring(rank: int):
    """The progress of a measurement, which the first of its processes shows. Raises Interrupted."""
    try:
        with progress() if rank == 0 else contextlib.nullcontext() as on_progress:
            yield on_progress
    except KeyboardInterrupt as error:
        raise Interrupted(str(error) or "interrupted before anything was measured; nothing was written.") from None


def chosen_sites(sites: str) -> str | list[str]:
    from .sites import SETS

    return sites if sites in SETS else sites.split(",")


def output_for(model: str, output: Path | None, ending: str = "") -> Path:
    """The run directory that was asked for, or runs/MODEL."""
    if output is not None:
        return output
    return Path("runs") / ((re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip(".-") or "run") + ending)


def check_place(output: Path, overwrite: bool) -> None:
    """Find out before hours of work that a run cannot be written there. Raises OSError."""
    from .run import check_output

    check_output(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):
        pass


def checkpoint_for(output: Path, overwrite: bool, resume: bool) -> Path:
    """Where a run keeps what it has measured until it is written; what lies there is removed if it is to be replaced.

    Raises OSError as check_place does."""
    checkpoint = output.with_name(f".{output.name}.checkpoint")
    check_place(output, overwrite or (resume and checkpoint.exists()))
    if overwrite and not resume and os.environ.get("RANK", "0") == "0":  # under torchrun the others wait in join
        shutil.rmtree(checkpoint, ignore_errors=True)
    return checkpoint


def save_run(run, output: Path, overwrite: bool) -> None:
    """Write a run and say where. Raises OSError that says where it was saved instead, if it was."""
    try:
        run.save(output, overwrite=overwrite)
    except OSError as error:
        rescue = Path(tempfile.mkdtemp(prefix="maxact-")) / "run"
        end = f"the run was saved to {rescue} instead"
        try:
            run.save(rescue)
        except OSError as again:
            rescue.parent.rmdir()
            end = f"nor could {rescue} ({again}); the run is lost, but for a checkpoint if there is one: make room"
        raise OSError(f"{output}: could not be written ({error}); {end}") from None
    note(f"Written to {output}.")

"""The command `maxact sweep`."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from .cli_model import (
    GOES_ON,
    Attn,
    Backend,
    Device,
    Dtype,
    ModelName,
    Output,
    Overwrite,
    Resume,
    Revision,
    Sites,
    TokensPerBatch,
    TopK,
    TrustRemoteCode,
    checkpoint_for,
    chosen_sites,
    measuring,
    output_for,
    save_run,
)
from .terminal import AsJson, console, note, print_json

app = typer.Typer()


@app.command(epilog="Example: maxact sweep smollm2-135m --output runs/smollm2-sweep")
def sweep(
    model: ModelName,
    output: Output = None,
    overwrite: Overwrite = False,
    sites: Sites = "default",
    bos: Annotated[bool, typer.Option("--bos", help="Each token after the BOS token, which is not counted.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    attn: Attn = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    tokens_per_batch: TokensPerBatch = 8192,
    topk: TopK = 100,
    backend: Backend = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Measure every token of the vocabulary as the first: the exact maximum over position 0, and whose it is.

    Position 0 of a causal decoder sees only itself, so this is all that can stand there; that is tried out first.
    """
    output = output_for(model, output, "-sweep")
    checkpoint = checkpoint_for(output, overwrite, resume)

    from .models import load_model
    from .parallel import join, leave
    from .show_sweep import print_sweep
    from .sweep import sweep as run_sweep

    rank, device = join(device)
    say = note if rank == 0 else lambda sentence: None
    loaded = load_model(
        model,
        dtype=dtype,
        device=device,
        attn=attn,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=say,
    )
    with measuring(rank) as on_progress:
        run = run_sweep(
            loaded.model,
            loaded.tokenizer,
            sites=chosen_sites(sites),
            bos=bos,
            tokens_per_batch=tokens_per_batch,
            topk=topk,
            backend=backend,
            checkpoint=checkpoint,
            resume=resume,
            provenance={"model": loaded.provenance},
            on_progress=on_progress,
            on_note=say,
        )
    leave()
    if rank:
        return  # the first of the processes writes
    save_run(run, output, overwrite or resume)
    if as_json:
        print_json(run.to_json())
    else:
        print_sweep(run, console())
    if run.partial:
        note(GOES_ON)
        raise typer.Exit(130)
    shutil.rmtree(checkpoint, ignore_errors=True)

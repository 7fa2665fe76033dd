"""The command line. Exit codes: 0 success, 2 bad usage or input, 130 interrupted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_corpus, cli_runs, cli_sweep
from .cli_model import (
    GOES_ON,
    Attn,
    Backend,
    Device,
    Dtype,
    Interrupted,
    ModelName,
    Output,
    Overwrite,
    Resume,
    Revision,
    Sites,
    TokensPerBatch,
    TopK,
    TrustRemoteCode,
    check_place,
    checkpoint_for,
    chosen_sites,
    measuring,
    output_for,
    save_run,
)
from .terminal import AsJson, console, note, print_json

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How large the activations inside a language model get, where, and what that means for low-bit formats.",
)

app.add_typer(cli_runs.app)
app.add_typer(cli_sweep.app)
app.add_typer(cli_corpus.app, name="corpus")

# Click's, or that of the copy of click inside newer versions of typer.
UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@app.command(epilog="Example: maxact measure smollm2-135m --bos --output runs/smollm2-bos")
def measure(
    model: ModelName,
    corpus: Annotated[str, typer.Option(help="builtin, paper, a .txt or .jsonl file, or hf:DATASET.")] = "builtin",
    output: Output = None,
    overwrite: Overwrite = False,
    sites: Sites = "default",
    bos: Annotated[bool, typer.Option("--bos", help="Put the BOS token before each sample.")] = False,
    special_tokens: Annotated[
        bool, typer.Option("--special-tokens", help="The tokenizer's own special tokens.")
    ] = False,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Each sample as a user turn.")] = False,
    skip_first: Annotated[int, typer.Option(min=0, help="Leave out the first so many tokens of each sample.")] = 0,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also inputs known to raise peaks, as a run of their own: OUTPUT-stress.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    attn: Attn = None,
    split: Annotated[
        str | None, typer.Option(help="A model larger than a GPU: layers (over GPUs), tensors (over torchrun's processes).")
    ] = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    max_length: Annotated[int, typer.Option(min=1, help="Longest sample, in tokens; the rest is cut.")] = 2048,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many samples.")] = None,
    tokens_per_batch: TokensPerBatch = 8192,
    topk: TopK = 100,
    backend: Backend = None,
    resume: Resume = False,
    shard: Annotated[str, typer.Option(help="Only the K-th of N parts, '3/8'; maxact merge puts them together.")] = "1/1",
    as_json: AsJson = False,
) -> None:
    """Measure a model on a corpus and write a run directory."""
    k, n = _shard(shard)
    if stress and n > 1:
        raise ValueError(f"stress: measured with a whole run, not with a part of one (--shard {shard})")
    output = output_for(model, output, "" if n == 1 else f"-{k}-of-{n}")
    apart = output.with_name(f"{output.name}-stress")
    if stress:
        check_place(apart, overwrite or resume)
    checkpoint = checkpoint_for(output, overwrite, resume)

    from . import corpus as corpora
    from .measurement import measure as run_measurement
    from .models import load_model
    from .parallel import join, leave

    rank, device = join(device)
    say = note if rank == 0 else lambda sentence: None
    texts = corpora.load_corpus(corpus, limit=limit)
    if texts.n_unreadable:
        lines = "1 line" if texts.n_unreadable == 1 else f"{texts.n_unreadable:,} lines"
        say(f"{lines} of the corpus could not be used, the first: {texts.first_fault}")
    loaded = load_model(
        model,
        dtype=dtype,
        device=device,
        attn=attn,
        split=split,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=say,
    )

    def measured(corpus, **options):
        with measuring(rank) as on_progress:
            return run_measurement(
                loaded.model,
                loaded.tokenizer,
                corpus,
                sites=chosen_sites(sites),
                bos=bos,
                special_tokens=special_tokens,
                chat_template=chat_template,
                skip_first=skip_first,
                max_length=max_length,
                tokens_per_batch=tokens_per_batch,
                topk=topk,
                backend=backend,
                provenance={"model": loaded.provenance},
                on_progress=on_progress,
                on_note=say,
                **options,
            )

    run = measured(texts, shard=(k, n), checkpoint=checkpoint, resume=resume)
    if rank:  # the first of the processes writes
        if stress:
            from .stress import stress_corpus

            measured(stress_corpus(loaded.tokenizer))
        leave()
        return
    save_run(run, output, overwrite or resume)
    record = run.to_json() if as_json else cli_runs.print_run(run, False)
    interrupted = run.partial
    if stress and not interrupted:
        from .stress import print_stress, stress_corpus, stress_record

        try:
            stressed = measured(stress_corpus(loaded.tokenizer))
        except Interrupted:
            interrupted = True
            note("Interrupted before anything of the stress inputs was measured.")
        else:
            interrupted = stressed.partial
            save_run(stressed, apart, overwrite or resume)
            if as_json:
                record["stress"] = stress_record(stressed)
            else:
                print_stress(run, stressed, console())
    if as_json:
        print_json(record)
    leave()
    if interrupted:
        note(GOES_ON)
        raise typer.Exit(130)
    shutil.rmtree(checkpoint, ignore_errors=True)


@app.command(epilog="Example: maxact tensor activations.safetensors --json")
def tensor(
    file: Annotated[Path, typer.Argument(help="A .safetensors or .npy file; the last axis is the features.")],
    name: Annotated[str, typer.Option(help="Only tensors whose name matches this pattern.")] = "*",
    topk: Annotated[int, typer.Option(min=1, max=1024, help="Largest elements to keep.")] = 100,
    as_json: AsJson = False,
) -> None:
    """The same statistics for tensors from anywhere."""
    from .run import plain
    from .show import tensor_table
    from .tensor_file import summaries

    found = list(summaries(str(file), name, topk=topk, int8_per_token=True))
    if as_json:
        rows = []
        for tensor_name, shape, dtype, summary in found:
            row = {"name": tensor_name, "shape": list(shape), "dtype": dtype}
            if isinstance(summary, str):
                rows.append(row | {"why_not": summary})
            else:
                top = [[*map(lambda v: v.item(), element)] for element in zip(*summary.topk)]
                rows.append(row | summary.scalars() | {"topk": top})
        print_json(plain(rows))
    else:
        console().print(tensor_table(found))


@app.command(epilog="Example: maxact doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Versions, devices, and which backends can run here and why the rest cannot."""
    from .doctor import describe, examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        print("\n".join(describe(found)))


def main() -> None:
    """Run the command line; what is foreseeable becomes one sentence and exit code 2."""
    who = f"maxact, rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "maxact: "
    before = signal.signal(signal.SIGTERM, _interrupt)  # as from a scheduler or from torchrun when a process has died
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        error.show()
        code = error.exit_code
    except (BrokenPipeError, SystemExit) as end:  # a pager that was left; inside a command typer makes it an exit
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(who + _sentence(error), file=sys.stderr)
        code = 2
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        print(who + (str(error) or "interrupted."), file=sys.stderr)
        code = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _interrupt(signum: int, frame) -> None:
    raise KeyboardInterrupt


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard: {text!r}, expected K/N with K from 1 to N, for example 3/8")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main()

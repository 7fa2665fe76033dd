"""The whole job: a model and a corpus in, a Run out. Batches by tokens, masks the padding, survives interruption."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import torch

from . import __version__
from .checkpoint import Checkpoint
from .corpus import Corpus, load_corpus
from .encoding import Encoded, encode
from .hooks import Probe, attach, describe
from .identity import identity
from .loop import Progress, forward, measure_batches
from .offload import input_device
from .parallel import Team, n_processes
from .planning import Work, plan
from .run import Run, token_of
from .split import split_of


def measure(
    model: torch.nn.Module,
    tokenizer,
    corpus: Corpus | str | Sequence[str] = "builtin",
    *,
    sites="default",
    bos: bool = False,
    special_tokens: bool = False,
    chat_template: bool = False,
    skip_first: int = 0,
    max_length: int = 2048,
    tokens_per_batch: int = 8192,
    topk: int = 100,
    t_abs: float = 100.0,
    t_ratio: float = 1000.0,
    int8_per_token: bool = True,
    backend: str | None = None,
    shard: tuple[int, int] = (1, 1),
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    provenance: dict | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Run a corpus through a model's decoder and measure every site of `sites`.

    corpus: a Corpus, what `load_corpus` takes, or texts. bos, special_tokens, chat_template: what is put around each
    text; by default nothing, as in arXiv 2605.15572. skip_first: leave out the first so many tokens of each sample;
    with none left out, the first is counted also on its own, as are special tokens and those of the chat template where
    there are such (`Run.groups`). tokens_per_batch: padding included; halved when memory runs out. shard: (k, n), the
    k-th of n parts of the batches, counted from 1, which `maxact merge` puts together. checkpoint: a directory for what
    has been measured so far, written now and then, in less than 1 % of the time; with resume=True what it holds is not
    measured again. It stays when the run has ended: remove it when the run is saved. on_progress is called after each
    batch, on_note with each sentence a user should read. Interrupted from the keyboard it returns what whole batches
    gave, `run.partial` being True.

    Raises ValueError for bad input or a checkpoint of something else, FileExistsError for one without resume=True,
    RuntimeError if a site never fired, torch.OutOfMemoryError if one sample is too large.
    """
    note = on_note or (lambda sentence: None)
    if isinstance(corpus, str):
        corpus = load_corpus(corpus)
    elif not isinstance(corpus, Corpus):
        corpus = Corpus.from_texts(corpus)
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch: {tokens_per_batch}, expected at least 1")
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard: {shard[0]} of {shard[1]}, expected the first number to be from 1 to the second")
    encoded = encode(
        corpus,
        tokenizer,
        max_length=max_length,
        special_tokens=special_tokens,
        bos=bos,
        chat_template=chat_template,
        n_ids=model.get_input_embeddings().weight.shape[0],
    )
    if encoded.n_unreadable:
        note(f"{encoded.n_unreadable} samples are left out, the first at {encoded.first_fault}.")

    started, kinds = datetime.now(UTC), encoded.kinds()
    options = dict(skip_first=skip_first, topk=topk, t_abs=t_abs, t_ratio=t_ratio, int8_per_token=int8_per_token)
    settings = dict(
        sites=sites if isinstance(sites, str) else list(sites),
        bos=bos,
        special_tokens=special_tokens,
        chat_template=chat_template,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
        **options,
    )
    of = identity(model, corpus.digest, encoded, settings)
    planned = plan(encoded, tokens_per_batch)
    batches = planned[shard[0] - 1 :: shard[1]]
    if not batches:
        raise ValueError(
            f"shard: {shard[0]} of {shard[1]}, expected at most {len(planned)}, as many as there are batches; make fewer "
            "shards, or smaller batches (tokens_per_batch)"
        )
    with (
        Team(split_of(model)) as team,
        attach(
            model, sites, position_0=skip_first == 0, n_samples=len(corpus.samples), backend=backend, **options
        ) as probe,
    ):
        if probe.site_map.has_encoder:
            raise ValueError(
                f"model: {type(model).__name__} reads one text and writes another, and a corpus has but one; measure its "
                "encoder, model.get_encoder(), or run it yourself with maxact.attach(model)"
            )
        if all(len(e.ids) <= skip_first for e in encoded):
            raise ValueError(f"skip_first: {skip_first}, which leaves no token of the longest sample")
        kept = Checkpoint(checkpoint, of | {"shard": list(shard)}, resume, team, note)
        budget = min(tokens_per_batch, kept.budget)
        work = Work(encoded, batches, budget, kept.samples, team.rank, team.size)
        done, whole, seconds = measure_batches(
            work,
            probe,
            partial(forward, model, probe, encoded, kinds),
            kept,
            team,
            on_progress,
            note,
        )
    if not done:
        raise KeyboardInterrupt
    if whole:
        probe.check()
    counted = {i: max(len(encoded[i].ids) - skip_first, 0) for i in done}
    return Run.from_probe(
        probe,
        {
            "maxact": __version__,
            "created": started.isoformat(timespec="seconds"),
            "partial": not whole,
            "model": describe(model),
            "site_set": settings["sites"],
            "corpus": {
                "name": corpus.name,
                "digest": corpus.digest,
                "n_unreadable": corpus.n_unreadable + encoded.n_unreadable,
                "n_empty": encoded.n_empty,
                "n_truncated": sum(encoded[i].truncated for i in done),
                "bos": bos,
                "special_tokens": special_tokens,
                "chat_template": chat_template,
                "max_length": max_length,
            },
            "n_samples": len(done),
            "n_tokens": sum(counted.values()),
            "samples": [
                {"index": encoded[i].index, "domain": encoded[i].domain, "n_tokens": n} for i, n in counted.items()
            ],
            "skip_first": skip_first,
            "mask_policy": "right padding, hidden by the attention mask, never counted",
            "tokens_per_batch": work.budget,
            "environment": environment(input_device(model), probe) | {"processes": n_processes()},
            "wall_s": round(seconds, 3),
            "identity": of,
            "shard": list(shard),
            "token_text": token_text(probe, encoded, tokenizer),
        }
        | (provenance or {}),
    )


def environment(device: torch.device, probe: Probe | None = None) -> dict:
    """Versions and hardware that a figure depends on; names no machine and no path."""
    import transformers

    values = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
    if probe is not None and probe.states:
        values["backend"] = ", ".join(sorted({state.backend.NAME for state in probe.states.values()}))
    return values


def token_text(probe: Probe, encoded: list[Encoded], tokenizer) -> dict[str, dict]:
    """Id and text of every token that stands in a site's top-k, so that a run can be read without the corpus."""
    by_index = {e.index: e.ids for e in encoded}
    found: dict[str, dict] = {}
    for name, state in probe.states.items():
        for token in state.fields["topk_token_ids"].unique().tolist():
            sample, position, _ = token_of(name, token)
            if position is not None and position < len(by_index.get(sample, ())):
                id = by_index[sample][position]
                found.setdefault(f"{sample}:{position}", {"id": id, "text": tokenizer.decode([id])})
    return found

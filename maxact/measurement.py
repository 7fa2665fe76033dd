"""The whole job: a model and a corpus in, a Run out. Batches by tokens, masks the padding, survives interruption."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import torch

from . import __version__
from .corpus import Corpus, Encoded, encode, load_corpus
from .hooks import Probe, attach, describe
from .planning import Work, plan
from .run import Run


class Progress(NamedTuple):
    """What `on_progress` is told after a batch."""

    n_tokens: int  # measured so far
    n_tokens_total: int
    seconds: float
    M: float  # largest |x| so far, routers left out


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
    provenance: dict | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Run a corpus through a model's decoder and measure every site of `sites`.

    corpus: a Corpus, what `load_corpus` takes, or texts. bos, special_tokens, chat_template: what is put around each
    text; by default nothing, as in arXiv 2605.15572. skip_first: leave out the first so many tokens of each sample;
    with none left out, the first is counted also on its own (`Run.groups`). tokens_per_batch: padding included; halved
    when memory runs out. on_progress is called after each batch, on_note with each sentence a user should read.
    Interrupted from the keyboard it returns what whole batches gave, `run.partial` being True.

    Raises ValueError for bad input, RuntimeError if a site never fired, torch.OutOfMemoryError if one sample is too large.
    """
    note = on_note or (lambda sentence: None)
    if isinstance(corpus, str):
        corpus = load_corpus(corpus)
    elif not isinstance(corpus, Corpus):
        corpus = Corpus.from_texts(corpus)
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch: {tokens_per_batch}, expected at least 1")
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
    total = sum(len(e.ids) for e in encoded)

    started, clock = datetime.now(UTC), time.perf_counter()
    device = model.get_input_embeddings().weight.device
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    work = Work(encoded, plan(encoded, tokens_per_batch), tokens_per_batch)
    options = dict(
        skip_first=skip_first,
        position_0=skip_first == 0,
        topk=topk,
        t_abs=t_abs,
        t_ratio=t_ratio,
        int8_per_token=int8_per_token,
        n_samples=len(corpus.samples),
        backend=backend,
    )

    def after_batch() -> None:
        if on_progress:
            on_progress(Progress(work.n_tokens, total, time.perf_counter() - clock, _largest(probe)))

    with attach(model, sites, **options) as probe, torch.inference_mode():
        if all(len(e.ids) <= skip_first for e in encoded):
            raise ValueError(f"skip_first: {skip_first}, which leaves no token of the longest sample")
        whole = _measure_all(
            work, probe, lambda samples: _forward(decoder, probe, encoded, samples, device), after_batch, note
        )
    if whole:
        probe.check()
    if not work.done:
        raise KeyboardInterrupt

    done = sorted(work.done)
    counted = {i: max(len(encoded[i].ids) - skip_first, 0) for i in done}
    _largest(probe)  # reads every state, so that wall_s holds what a GPU had yet to do
    return Run.from_probe(
        probe,
        {
            "maxact": __version__,
            "created": started.isoformat(timespec="seconds"),
            "partial": not whole,
            "model": describe(model),
            "site_set": sites if isinstance(sites, str) else list(sites),
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
            "environment": environment(device, probe),
            "wall_s": round(time.perf_counter() - clock, 3),
            "token_text": _token_text(probe, encoded, tokenizer),
        }
        | (provenance or {}),
    )


def _measure_all(
    work: Work,
    probe: Probe,
    forward: Callable[[list[int]], None],
    after_batch: Callable[[], None],
    note: Callable[[str], None],
) -> bool:
    """Batch after batch until there is none left, True, or an interruption from the keyboard, False.

    Either way the states hold whole batches, those of the samples that `work` has done.
    """
    before, n_done = None, 0
    try:
        while (samples := work.next()) is not None:
            before, n_done = None, len(work.done)
            before = probe.snapshot()
            try:
                forward(samples)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                probe.restore(before)
                _halve(work, samples, note, error)
                continue
            work.finish(samples)
            after_batch()
    except KeyboardInterrupt:
        if before is not None and len(work.done) == n_done:
            probe.restore(before)
        return False
    return True


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


def _forward(decoder, probe: Probe, encoded: list[Encoded], batch: list[int], device: torch.device) -> None:
    """One forward pass of the decoder, without the LM head, over samples padded on the right."""
    width = len(encoded[batch[0]].ids)  # the longest comes first
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, i in enumerate(batch):
        ids[row, : len(encoded[i].ids)] = torch.tensor(encoded[i].ids)
        mask[row, : len(encoded[i].ids)] = True
    ids, mask = ids.to(device), mask.to(device)
    probe.batch(mask, torch.tensor([encoded[i].index for i in batch], device=device))
    decoder(input_ids=ids, attention_mask=mask.long(), use_cache=False)


def _halve(work: Work, samples: list[int], note: Callable[[str], None], error: Exception) -> None:
    """Go on with half the tokens in a batch; raises torch.OutOfMemoryError if one sample is too much."""
    if len(samples) == 1:
        raise torch.OutOfMemoryError(
            f"a single sample of {work.n_padded(samples)} tokens does not fit in memory; lower max_length (--max-length)"
        ) from error
    work.halve(samples)
    note(f"A batch of {work.n_padded(samples)} tokens did not fit in memory; going on with {work.budget}.")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)  # PyTorch's CPU allocators


def _largest(probe: Probe) -> float:
    peaks = [state.fields["absmax"] for name, state in probe.states.items() if not name.endswith("_moe_gate")]
    return max((float(peak) for peak in peaks), default=0.0)


def _token_text(probe: Probe, encoded: list[Encoded], tokenizer) -> dict[str, dict]:
    """Id and text of every token that stands in a site's top-k, so that a run can be read without the corpus."""
    by_index = {e.index: e.ids for e in encoded}
    found: dict[str, dict] = {}
    for state in probe.states.values():
        for token in state.fields["topk_token_ids"].unique().tolist():
            sample, position = token >> 32, token & 0xFFFFFFFF
            if position < len(by_index.get(sample, ())):
                id = by_index[sample][position]
                found.setdefault(f"{sample}:{position}", {"id": id, "text": tokenizer.decode([id])})
    return found

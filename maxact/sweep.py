"""Every token of a vocabulary as the first of a sequence: the exact maximum over position 0, and which tokens cause it.

Position 0 of a causal decoder attends to nothing but itself, so whatever follows, what stands there is a function of
the token alone: one forward pass of one token each goes through all that can ever stand there. That is exhaustive for
decoders whose position 0 sees only itself, which `sees_only_itself` tries out. It is not for encoders and prefix LMs,
where position 0 sees what follows; and it says nothing of inputs that are no tokens (images, soft prompts), of first
tokens at another position (absolute positions after left padding), or of later positions, where the largest value may
stand. Another batch size may round the last bit otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import torch

from . import __version__
from .checkpoint import Checkpoint
from .encoding import Encoded
from .hooks import attach, describe
from .identity import identity
from .loop import Progress, forward, measure_batches
from .measurement import environment, token_text
from .offload import input_device
from .parallel import Team
from .planning import Work, plan
from .run import ROUTERS, Run, site_kind, token_of
from .split import split_of

_SHOWN = 5  # tokens of a site


def sweep(
    model: torch.nn.Module,
    tokenizer,
    *,
    sites="default",
    bos: bool = False,
    tokens_per_batch: int = 8192,
    topk: int = 100,
    t_abs: float = 100.0,
    t_ratio: float = 1000.0,
    backend: str | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    provenance: dict | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Run every token of the tokenizer through a model's decoder, each as a sequence of its own, without padding.

    The sample of each coordinate is the token's id. bos: the BOS token before each, which is not counted itself: all of
    position 1 that can follow it. checkpoint, resume: as of `measure`. `run.provenance["sweep"]`: position, n_vocabulary,
    exhaustive (position 0 was seen to be the same whatever follows, and the sweep came to its end; None if the model
    gives nan or inf, which hides it), and for each site its largest tokens, with id, text, absmax. Interrupted from the
    keyboard it returns what whole batches gave, `run.partial` being True.

    Raises ValueError for bad input or a checkpoint of something else, FileExistsError for one without resume=True,
    RuntimeError if a site never fired.
    """
    if tokens_per_batch < 1 + bos:
        raise ValueError(f"tokens_per_batch: {tokens_per_batch}, expected at least {1 + bos}")
    if bos and tokenizer.bos_token_id is None:
        raise ValueError(f"bos: this tokenizer ({type(tokenizer).__name__}) has no BOS token")
    n_ids, device = model.get_input_embeddings().weight.shape[0], input_device(model)
    vocabulary = sorted(id for id in set(tokenizer.get_vocab().values()) if id < n_ids)
    front = [tokenizer.bos_token_id] if bos else []
    encoded = [Encoded([*front, id], id, "vocabulary", False) for id in vocabulary]
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model

    started = datetime.now(UTC)
    note = on_note or (lambda sentence: None)
    options = dict(skip_first=len(front), topk=topk, t_abs=t_abs, t_ratio=t_ratio, int8_per_token=True)
    site_set = sites if isinstance(sites, str) else list(sites)
    settings = dict(sites=site_set, bos=bos, tokens_per_batch=tokens_per_batch, **options)

    alone = sees_only_itself(decoder, n_ids, device)
    with Team(split_of(model)) as team, attach(model, sites, backend=backend, **options) as probe:
        of = identity(model, "vocabulary", encoded, settings) if checkpoint is not None else {}  # reads all weights
        kept = Checkpoint(checkpoint, of, resume, team, note)
        budget, batches = min(tokens_per_batch, kept.budget), plan(encoded, tokens_per_batch)
        work = Work(encoded, batches, budget, kept.samples, team.rank, team.size)
        forwards = partial(forward, model, probe, encoded, ())
        done, whole, seconds = measure_batches(work, probe, forwards, kept, team, on_progress, note)
    if whole:
        probe.check()
    if not done:
        raise KeyboardInterrupt
    run = Run.from_probe(
        probe,
        {
            "maxact": __version__,
            "created": started.isoformat(timespec="seconds"),
            "partial": not whole,
            "model": describe(model),
            "site_set": site_set,
            "corpus": {"name": "vocabulary", "bos": bos},
            "n_samples": len(done),
            "n_tokens": len(done),
            "skip_first": len(front),
            "mask_policy": "no padding",
            "tokens_per_batch": work.budget,
            "environment": environment(device, probe),
            "wall_s": round(seconds, 3),
            "token_text": token_text(probe, encoded, tokenizer),
        }
        | (provenance or {}),
    )
    run.provenance["sweep"] = {
        "position": len(front),
        "n_vocabulary": len(vocabulary),
        "exhaustive": alone if whole else False,
        "sites": {name: _largest_tokens(run, name) for name in run.sites if site_kind(name) not in ROUTERS},
    }
    return run


@torch.inference_mode()
def sees_only_itself(decoder: torch.nn.Module, n_ids: int, device: torch.device) -> bool | None:
    """Whether what stands at position 0 is the same whatever follows, for four first tokens and two continuations.

    Shapes are equal, so a causal decoder differs by rounding at most: 1 % of the largest value is far beyond that, and
    far below what attention to other tokens does. None if nan or inf stands there, which hides it.
    """
    chance = torch.Generator().manual_seed(0)
    first, *rest = (torch.randint(n_ids, (4, n), generator=chance) for n in (1, 4, 4))
    one, other = (
        decoder(input_ids=torch.cat([first, r], 1).to(device), use_cache=False)[0][:, 0].float() for r in rest
    )
    if not (one.isfinite().all() and other.isfinite().all()):
        return None
    return bool((one - other).abs().max() <= 0.01 * one.abs().max())


def _largest_tokens(run: Run, site: str) -> list[dict]:
    """The tokens that stand highest in a site's top-k, each once. Experts' rows name only the first 65,535 ids."""
    top, found = run.sites[site].topk, {}
    for value, row in zip(top.values.tolist(), top.token_ids.tolist()):
        id, position, _ = token_of(site, row)
        if id is not None and id not in found:
            found[id] = {"id": id, "text": run.token_text(id, position), "absmax": abs(value)}
    return list(found.values())[:_SHOWN]

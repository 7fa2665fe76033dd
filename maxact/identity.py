"""What a measurement is of: the model, the token ids and every option that a bit of the result depends on.

Two parts of one run have equal identities; where they differ, the difference has a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from .encoding import Encoded

_PER_PARAMETER = 64  # elements of each parameter in the digest: a model of 10^12 weights takes as long as a small one
_SHOWN = 3


def identity(model, corpus_digest: str, encoded: Sequence[Encoded], settings: Mapping) -> dict:
    """A flat, JSON-able dict; `settings` are the options of the measurement."""
    tokens = hashlib.sha256()
    for sample in encoded:
        tokens.update(np.array([sample.index, len(sample.ids)], dtype="<i8").tobytes())
        tokens.update(np.array(sample.ids, dtype="<i4").tobytes())
    config = getattr(model, "config", None)
    return {
        "model": type(model).__name__,
        "dtype": str(getattr(model, "dtype", None)).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": weights_digest(model),
        "corpus": corpus_digest,
        "token_ids": tokens.hexdigest(),
        **settings,
    }


def differences(now: Mapping, before: Mapping, before_is: str = "before") -> str:
    """`topk is 50, before 100; ...`; empty if there are none."""
    names = [name for name in (*now, *(set(before) - set(now))) if now.get(name) != before.get(name)]
    found = [f"{name} is {_short(now.get(name))}, {before_is} {_short(before.get(name))}" for name in names[:_SHOWN]]
    return "; ".join(found) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def weights_digest(model) -> str:
    """sha256 over the names and shapes of all parameters and 64 elements of each that this process holds whole."""
    import torch

    digest, held = hashlib.sha256(), {}
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{list(parameter.shape)}".encode())
        if not parameter.is_meta and type(parameter.data) is torch.Tensor and parameter.numel():
            step = -(-parameter.numel() // _PER_PARAMETER)
            sample = parameter.detach().reshape(-1)[::step].float()
            held.setdefault(parameter.device, []).append(sample)
    for samples in held.values():
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:12] + "…" + text[-1]

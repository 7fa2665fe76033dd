"""What a measurement is of: the model, the token ids and every option that a bit of the result depends on.

Two parts of one run have equal identities; where they differ, the difference has a name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from .encoding import Encoded

_PER_PARAMETER = 64  # 64-bit words of each parameter that stand in the digest as they are, beside the sum of all
_SHOWN = 3
_NOT_THE_MODEL = ("_name_or_path", "_commit_hash", "transformers_version")  # config keys that say where and by whom


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
        "config": None if config is None else config_digest(config.to_dict()),
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


def config_digest(config: Mapping) -> str:
    kept = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def weights_digest(model) -> str:
    """sha256 over the name and shape of every parameter and, of those that this process holds whole, some 64-bit words
    and the sum of all: no element changes alone without changing it. The weights are read once, where they lie."""
    import torch

    digest, held = hashlib.sha256(), {}
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{list(parameter.shape)}".encode())
        if not parameter.is_meta and type(parameter.data) is torch.Tensor and parameter.numel():
            bits = parameter.detach().reshape(-1).view(torch.uint8)
            bits = bits.clone() if bits.storage_offset() % 8 else bits
            n = bits.numel() // 8 * 8
            words, rest = bits[:n].view(torch.int64), bits[n:].long()
            step = max(1, len(words) // _PER_PARAMETER)
            held.setdefault(parameter.device, []).extend([words[::step], rest, words.sum()[None]])
    for numbers in held.values():
        digest.update(torch.cat(numbers).cpu().numpy().tobytes())
    return digest.hexdigest()


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:12] + "…" + text[-1]

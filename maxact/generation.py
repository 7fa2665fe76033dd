"""The padding mask of `generate`, where the model is given another one in its place."""

from __future__ import annotations

from collections.abc import Callable

import torch


def prepare_inputs(say: Callable[[torch.Tensor], None], original: Callable, input_ids: torch.Tensor, *args, **kwargs):
    """In place of `prepare_inputs_for_generation`: if a forward pass is given no 2-D mask but a 4-D one, as with a static
    cache, `say` is called with the 2-D one."""
    prepared = original(input_ids, *args, **kwargs)
    decoder = "decoder_" if "decoder_input_ids" in prepared else ""
    given, mask = (of.get(f"{decoder}attention_mask") for of in (prepared, kwargs))
    if given is not None and not (isinstance(given, torch.Tensor) and given.ndim == 2):
        if mask is None:  # no padding: generate drops a mask of ones
            positions = kwargs.get(f"{decoder}position_ids")
            n_tokens = (input_ids if positions is None else positions).shape[-1]
            mask = torch.ones(len(input_ids), n_tokens, dtype=torch.bool, device=input_ids.device)
        say(mask)
    return prepared

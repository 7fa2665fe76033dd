"""The padding mask of `generate`, where the model is given another one in its place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class GenerationMask:
    """Calls `say` with the 2-D mask of each forward pass of `generate` whose model is given a 4-D one (static caches).

    Until `remove`, the model's own method is the class's, called through an attribute of the instance.
    """

    def __init__(self, model: nn.Module, say: Callable[[torch.Tensor], None]):
        self._model = model
        self._theirs = vars(model).get("prepare_inputs_for_generation")
        self._prepare = getattr(model, "prepare_inputs_for_generation", None)
        self._say = say
        if self._prepare is not None:
            model.prepare_inputs_for_generation = self._prepare_inputs

    def _prepare_inputs(self, input_ids: torch.Tensor, *args, **kwargs) -> dict:
        prepared = self._prepare(input_ids, *args, **kwargs)
        given, mask = prepared.get("attention_mask"), kwargs.get("attention_mask")
        if given is not None and not (isinstance(given, torch.Tensor) and given.ndim == 2):
            if mask is None:  # no padding: generate drops a mask of ones
                positions = kwargs.get("position_ids")
                n_tokens = (input_ids if positions is None else positions).shape[-1]
                mask = torch.ones(len(input_ids), n_tokens, dtype=torch.bool, device=input_ids.device)
            self._say(mask)
        return prepared

    def remove(self) -> None:
        if self._prepare is None:
            return
        if self._theirs is None:
            del self._model.prepare_inputs_for_generation
        else:
            self._model.prepare_inputs_for_generation = self._theirs

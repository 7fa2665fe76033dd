"""Where a model computes when its weights lie elsewhere: accelerate's offload keeps them on the CPU or on disk."""

from __future__ import annotations

import torch
from torch import nn


def input_device(model: nn.Module) -> torch.device:
    """The device for a model's token ids: that of its embedding, or of what accelerate moves to when it computes."""
    embedding = _embedding(model)
    for module in (embedding, *model.modules()):
        weight = next(module.parameters(recurse=False), None)
        if weight is not None and weight.device.type != "meta":
            return weight.device
        to = _execution_device(module)
        if to is not None:
            return torch.device(to)
    return torch.device("cpu")


def _embedding(model: nn.Module) -> nn.Module:
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    return model if embedding is None else embedding


def _execution_device(module: nn.Module):
    hook = getattr(module, "_hf_hook", None)
    devices = (getattr(one, "execution_device", None) for one in getattr(hook, "hooks", (hook,)))
    return next((device for device in devices if device is not None), None)

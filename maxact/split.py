"""Models of which each process holds a part: who measures what, and how shards of a tensor become whole.

tensor or expert parallel   all processes see the same batches. Residual stream, attention and MLP outputs are the same in
                            all of them; inputs of row-wise and outputs of column-wise projections are shards, gathered
                            here before they are measured. Each process then knows all; the first writes.
FSDP2                       each process sees batches of its own, and tensors are whole; but every forward pass is one of
                            all processes, so they go in step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from .sites import Site


class Split(NamedTuple):
    """How a model is split. size: the processes that share one copy and see the same batches. in_step: a forward pass
    is one of all processes that measure."""

    size: int = 1
    group: object = None
    in_step: bool = False


class Shards:
    """Makes the tensors of a split model's sites whole: a collective of all processes that share the copy."""

    def __init__(self, model: nn.Module, sites: Iterable[Site]):
        self._split = split_of(model)
        self._widths = {}
        if self._split.size > 1:
            self._widths = {site.name: _declared_width(model.get_submodule(site.path), site) for site in sites}

    def whole(self, site: Site, x: torch.Tensor) -> torch.Tensor:
        """The site's tensor, of which x may be this process's share of the features. Raises ValueError if it is neither."""
        if self._split.size == 1:
            return x
        if isinstance(x, _dtensor()):
            return x.full_tensor()
        width, n = self._widths[site.name], self._split.size
        if width is None or x.shape[-1] == width:
            return x
        share, rank = -(-width // n), dist.get_rank(self._split.group)  # cut as by torch.chunk: the last may be shorter
        if x.shape[-1] != max(0, min(share, width - rank * share)):
            raise ValueError(f"{x.shape[-1]} features, expected {width}, or a share of them in each of {n} processes")
        padded = x.new_zeros(*x.shape[:-1], share)
        padded[..., : x.shape[-1]] = x
        shards = [torch.empty_like(padded) for _ in range(n)]
        dist.all_gather(shards, padded, self._split.group)
        return torch.cat(shards, -1)[..., :width].contiguous()


def split_of(model: nn.Module) -> Split:
    """Raises ValueError for a split that cannot be measured right."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Split()
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    world, mesh = dist.get_world_size(), getattr(model, "_device_mesh", None)
    size = getattr(model, "_tp_size", None) or 1
    fsdp = any(isinstance(module, FSDPModule) for module in model.modules())
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise ValueError("model: wrapped in FullyShardedDataParallel, which hides its modules; use fully_shard (FSDP2)")
    if mesh is not None and "pp" in (mesh.mesh_dim_names or ()) and mesh["pp"].size() > 1:
        raise ValueError(
            "model: split into pipeline stages, which cannot be measured; use tensor parallel or device_map"
        )
    if size == 1 and not fsdp and any(isinstance(p, _dtensor()) for p in model.parameters()):
        size, mesh = world, None  # parallelize_module
    if size > 1 and (fsdp or size != world):
        raise ValueError(
            f"model: tensor parallel over {size} of {world} processes{' and FSDP' if fsdp else ''}, expected one of them over "
            "all; start a torchrun of its own for each copy, with --shard"
        )
    if size == 1:
        return Split(in_step=fsdp)
    named = mesh is not None and mesh.ndim > 1
    return Split(size, None if mesh is None else mesh.get_group("tp") if named else mesh.get_group())


def _declared_width(module: nn.Module, site: Site) -> int | None:
    """The features of the whole tensor at a site; None where modules do not say it, as they are not split there."""
    if site.end == "product":  # of experts, that their down projections are given
        return module.down_proj.shape[1 if module.is_transposed else 2]
    width = getattr(module, "in_features" if site.end == "input" else "out_features", None)
    return width // 2 if width is not None and site.first_half else width


def _dtensor():
    from torch.distributed.tensor import DTensor

    return DTensor

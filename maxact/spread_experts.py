"""Expert parallel: each process has the rows of its own experts, and of all others rows without meaning (sentinels)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn


class Spread(NamedTuple):
    """The experts of a layer over the processes of a group that see the same batch: those of process r come r-th."""

    group: object
    n_experts: int  # of all processes

    def whole(self, product: torch.Tensor, index: torch.Tensor, order: Callable) -> torch.Tensor:
        """The product of every token with each of its experts, [n * k, features] in the order of `index` [n, k].

        product: this process's rows, as `order` says of the experts of each token, those of others being one too many.
        Adding the zeros of other processes changes no value. Raises ValueError if there is not a row for each.
        """
        if len(product) != index.numel():
            raise ValueError(
                f"{len(product)} rows of experts, expected {index.numel()}: tokens are exchanged between processes, which "
                "only ep_implementation='all_reduce' does not"
            )
        share = self.n_experts // dist.get_world_size(self.group)
        first = share * dist.get_rank(self.group)
        mine = (index >= first) & (index < first + share)
        token, expert = order(torch.where(mine, index - first, share))
        column = (index[token] == (expert + first)[:, None]).int().argmax(-1)
        place = torch.where(expert < share, token * index.shape[1] + column, index.numel())
        rows = product.new_zeros(index.numel() + 1, product.shape[1]).index_copy_(0, place, product)[:-1]
        dist.all_reduce(rows, group=self.group)
        return rows


def spread_of(experts: nn.Module) -> Spread | None:
    """How a layer's experts are spread over processes; None if they are not, or in a way that cannot be made whole."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    weights = experts.down_proj
    if not isinstance(weights, DTensor) or isinstance(experts, FSDPModule) or weights.device_mesh.ndim != 1:
        return None
    return Spread(weights.device_mesh.get_group(), weights.shape[0])

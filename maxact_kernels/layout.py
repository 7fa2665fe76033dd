"""Any tensor [..., d] as rows that a kernel can address: an address, a count and two strides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """Row r begins (r // inner) * outer_stride + (r % inner) * inner_stride elements after x's first."""

    x: torch.Tensor
    n_rows: int
    inner: int
    inner_stride: int
    outer_stride: int
    first: int  # index of row 0 among all tokens of the tensor


def rows(x: torch.Tensor) -> Iterator[Rows]:
    """Cut x [..., d], last axis contiguous, into as few such runs of rows as its strides allow; most tensors are one."""
    axes: list[tuple[int, int]] = []  # (size, stride) of the leading axes, outermost first, neighbours joined
    for size, stride in zip(x.shape[:-1], x.stride()[:-1]):
        if size == 1:
            continue
        if axes and axes[-1][1] == stride * size:
            axes[-1] = (axes[-1][0] * size, stride)
        else:
            axes.append((size, stride))
    if len(axes) <= 2:
        (outer, outer_stride), (inner, inner_stride) = ([(1, 0), (1, 0)] + axes)[-2:]
        yield Rows(x, outer * inner, inner, inner_stride, outer_stride, 0)
        return
    axis = next(i for i, size in enumerate(x.shape) if size > 1)
    tokens = x[..., 0].select(axis, 0).numel()
    for i, part in enumerate(x.unbind(axis)):
        for run in rows(part):
            yield run._replace(first=run.first + i * tokens)

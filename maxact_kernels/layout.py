"""Any tensor [..., d] as rows that a kernel can address: addresses, a count and two strides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

Run = tuple[int, int, int, int, int, int, int]


def runs(x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> Iterable[Run]:
    """Cut x into as few runs of rows as its strides allow; most tensors are one.

    Each run is (address of x, n_rows, inner, inner_stride, outer_stride, address of mask, address of token_ids), an
    absent tensor 0: row r begins (r // inner) * outer_stride + (r % inner) * inner_stride elements after the address.
    A last axis that is not contiguous is copied. The tensors must outlive what the addresses are used for.
    """
    if mask is None and token_ids is None and x.is_contiguous():  # most calls, told without looking at strides
        d = x.shape[-1]
        n_rows = x.numel() // d
        return ((x.data_ptr(), n_rows, n_rows, d, 0, 0, 0),)
    return _general_runs(x, mask, token_ids)


def _general_runs(x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> Iterator[Run]:
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    mask = None if mask is None else mask.contiguous()
    token_ids = None if token_ids is None else token_ids.contiguous()
    for part, first, n_rows, inner, inner_stride, outer_stride in _cut(x, 0):
        yield (
            part.data_ptr(),
            n_rows,
            inner,
            inner_stride,
            outer_stride,
            0 if mask is None else mask.data_ptr() + first * mask.element_size(),
            0 if token_ids is None else token_ids.data_ptr() + first * token_ids.element_size(),
        )


def _cut(x: torch.Tensor, first: int) -> Iterator[tuple[torch.Tensor, int, int, int, int, int]]:
    """(part of x, index of its first token, n_rows, inner, inner_stride, outer_stride)"""
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
        yield x, first, outer * inner, inner, inner_stride, outer_stride
        return
    axis = next(i for i, size in enumerate(x.shape) if size > 1)
    n_tokens = x[..., 0].select(axis, 0).numel()
    for i, part in enumerate(x.unbind(axis)):
        yield from _cut(part, first + i * n_tokens)

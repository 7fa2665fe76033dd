"""The statistics of a tensor in plain PyTorch: the specification in code, the oracle of the tests, right on any device.

Everything is decided on the bits of |x| as float32, an int32 that orders as |x| does. bf16 and fp16 convert exactly.
"""

from __future__ import annotations

import torch

from . import fields as F
from .merge import merge, merge_ranking

NAME = "reference"
DEVICE_TYPES = None  # any

_CHUNK_ELEMENTS = 1 << 24  # bounds the working memory; no statistic depends on it


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    return None


def prepare(state) -> None:
    """Nothing to keep between calls."""


def update(state, x: torch.Tensor, mask: torch.Tensor | None, token_ids: torch.Tensor | None) -> None:
    """Fold x [..., d] into the state's fields; mask bool and token_ids int64 have x's leading shape."""
    options, into = state.options, state.fields
    x = x.reshape(-1, options.d)
    if token_ids is not None:
        token_ids = token_ids.reshape(-1)
    if mask is not None:
        keep = mask.reshape(-1)
        x, token_ids = x[keep], None if token_ids is None else token_ids[keep]
    if token_ids is None:
        token_ids = into["n_tokens"] + torch.arange(len(x), device=x.device)
    step = max(1, _CHUNK_ELEMENTS // options.d)
    for start in range(0, len(x), step):
        merge(into, _chunk(x[start : start + step], token_ids[start : start + step], options), options)


def _chunk(x: torch.Tensor, ids: torch.Tensor, options: F.Options) -> dict[str, torch.Tensor]:
    """The fields of one state that has seen only the tokens x [n, d] named ids [n]."""
    values = x.float()
    bits = values.view(torch.int32) & 0x7FFFFFFF
    finite = bits < 0x7F800000
    whole = finite.all(-1)  # tokens that take part in the per-token statistics

    out = {
        f.name: torch.full(f.shape, f.empty, dtype=getattr(torch, f.dtype), device=x.device) for f in F.fields(options)
    }
    out["n_elements"] += finite.sum()
    out["n_tokens"] += len(x)
    out["n_zero"] += (bits == 0).sum()
    out["n_nan"] += (bits > 0x7F800000).sum()
    out["n_inf"] += (bits == 0x7F800000).sum()
    out["n_nonfinite_tokens"] += (~whole).sum()

    magnitude = torch.where(finite, bits, -1)  # [n, d], -1 takes no part
    _first_nonfinite(out, finite, ids)
    _topk(out, values, magnitude, ids, options.topk)

    bits = torch.where(finite, bits, 0)
    values = torch.where(finite, values, 0.0)
    out["channel_absmax"].copy_(bits.amax(0).view(torch.float32))
    out["absmax"].copy_(bits.max().view(torch.float32))
    out["n_absmax"].copy_((magnitude == bits.max()).sum())
    out["max"].copy_(torch.where(finite, values, -torch.inf).max() + 0.0)  # + 0.0 drops the sign of a zero
    out["neg_min"].copy_((-torch.where(finite, values, torch.inf)).max() + 0.0)
    _add_exactly(out["sum"], values.double().sum(-1))
    if options.counts:
        out["counts"].copy_(_count_magnitudes(x, finite))
    if options.n_samples:
        _samples(out, bits.amax(-1), ids, options.n_samples)
    _per_token(out, values[whole], bits[whole], ids[whole], options)
    return out


def _count_magnitudes(x: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """counts[k]: elements whose upper 16 bits without the sign are k. [32768] int64"""
    if x.dtype == torch.float32:
        keys = (x.view(torch.int32) & 0x7FFFFFFF) >> 16
    else:
        keys = x.view(torch.int16) & 0x7FFF
    return torch.bincount(keys[finite].long(), minlength=F.N_COUNTS)


def _first_nonfinite(out: dict, finite: torch.Tensor, ids: torch.Tensor) -> None:
    rows, columns = (~finite).nonzero(as_tuple=True)
    found = {"first_nonfinite_token": ids[rows], "first_nonfinite_feature": columns}
    merge_ranking("first_nonfinite", out, found)


def _topk(out: dict, values: torch.Tensor, magnitude: torch.Tensor, ids: torch.Tensor, k: int) -> None:
    """The k first elements by (|x| descending, token id ascending, feature ascending)."""
    kth = torch.topk(magnitude.flatten(), min(k, magnitude.numel())).values[-1].clamp(min=0)
    # Elements equal to the k-th can be very many. Those of the smallest token ids suffice: enough tokens for k of them.
    ties = (magnitude == kth).sum(-1)  # [n]
    ids_sorted, order = ids.sort(stable=True)
    enough = torch.searchsorted(ties[order].cumsum(0), k).clamp(max=len(ids) - 1)
    candidate = (magnitude > kth) | ((magnitude == kth) & (ids <= ids_sorted[enough])[:, None])
    rows, columns = candidate.nonzero(as_tuple=True)
    found = {"topk_values": values[rows, columns], "topk_token_ids": ids[rows], "topk_features": columns}
    merge_ranking("topk", out, found)


def _samples(out: dict, row_bits: torch.Tensor, ids: torch.Tensor, n_samples: int) -> None:
    """sample_absmax from the largest finite |x| of each token, and sample_tokens: all tokens, finite throughout or not."""
    sample, inside = _sample_of(ids, n_samples)
    out["n_outside_samples"] += (~inside).sum()
    out["sample_tokens"] += torch.bincount(sample[inside], minlength=n_samples)
    per_sample = torch.zeros(n_samples, dtype=torch.int32, device=ids.device)
    per_sample.scatter_reduce_(0, sample[inside], row_bits[inside], "amax")
    out["sample_absmax"].copy_(per_sample.view(torch.float32))


def _sample_of(ids: torch.Tensor, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sample of each token, the upper half of its id, and whether there is such a sample."""
    sample = ids >> 32
    return sample, (sample >= 0) & (sample < n_samples)


def _per_token(out: dict, x: torch.Tensor, bits: torch.Tensor, ids: torch.Tensor, options: F.Options) -> None:
    """Median, ratio, Sun test and INT-8 error of the tokens x [n, d], all of them finite."""
    if not len(x):
        return
    absmax = bits.amax(-1).view(torch.float32)  # m_t [n]
    median = bits.median(-1).values.view(torch.float32)  # lower median, sorted index (d - 1) // 2
    ratio = absmax / median  # r_t; 0 / 0 is nan: a token of zeros has none
    t_abs = torch.tensor(options.t_abs, dtype=torch.float32, device=x.device)
    t_ratio = torch.tensor(options.t_ratio, dtype=torch.float32, device=x.device)

    # Sun et al. 2024, Massive Activations in Large Language Models, section 2: |x| > 100 and |x| > 1000 medians.
    massive = (absmax > t_abs) & (ratio > t_ratio)
    out["n_massive_tokens"] += massive.sum()
    if options.n_samples:
        sample, inside = _sample_of(ids, options.n_samples)
        out["sample_massive"] += torch.bincount(sample[inside & massive], minlength=options.n_samples)
    magnitude = bits.view(torch.float32)
    out["n_massive_elements"] += ((magnitude > t_abs) & (magnitude > (t_ratio * median)[:, None])).sum()
    out["n_zero_median"] += ((median == 0) & (absmax > 0)).sum()

    has_ratio = absmax > 0
    columns = (ratio, ids, absmax, median)
    merge_ranking("ratio_max", out, {name: c[has_ratio] for name, c in zip(F.RANKINGS["ratio_max"], columns)})
    merge_ranking("peak", out, {"peak_absmax": absmax, "peak_token": ids, "peak_median": median})

    if options.medians:
        finite = ratio[ratio.isfinite()].double()
        out["n_ratios"] += len(finite)
        _add_exactly(out["ratio_sum"], finite)
        _add_exactly(out["ratio_square_sum"], finite * finite)
        row = ((absmax.view(torch.int32) >> 21) - ((127 - 24) << 2)).clamp(0, F.RATIO_ROWS - 1)
        column = ((ratio.view(torch.int32) >> 21) - (127 << 2)).clamp(0, F.RATIO_COLS - 1)
        cell = (row * F.RATIO_COLS + column)[has_ratio].long()
        out["ratio_table"] += torch.bincount(cell, minlength=F.RATIO_ROWS * F.RATIO_COLS).view(F.RATIO_ROWS, -1)

    if options.int8_per_token:
        scale = absmax.double()[:, None] / 127
        exact = x.double()
        quantized = torch.where(scale > 0, (exact / scale).round() * scale, 0.0)
        error = quantized - exact
        for name, addends in zip(F.INT8_SUMS, (exact.square(), exact.abs(), error.square(), error.abs())):
            _add_exactly(out[name], addends.sum(-1))


def _add_exactly(bins: torch.Tensor, addends: torch.Tensor) -> None:
    """Add float64 addends [n], each rounded to 24 significant bits, to an exact sum."""
    mantissa, exponent = torch.frexp(addends)
    index = exponent.long() - F.EXPONENT_MIN
    inside = index >= 0  # anything smaller is below every error bound
    bins.index_add_(0, index[inside], (mantissa[inside] * 2.0**24).round().long())

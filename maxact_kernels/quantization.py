"""The error of a symmetric per-tensor quantizer, from counted magnitudes alone.

A quantizer is its grid: the non-negative values it can represent, scaled so that the largest is 1. With threshold thr,
|x| goes to the nearest of thr * grid, saturating at thr. For int<b> that is round(clamp(x, +-thr) / scale) * scale with
scale = thr / (2^(b-1) - 1). Both neighbours of a tie have the same error, so only `zeroed` needs a rule: half to even.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class QuantizationError:
    """Error of one quantizer on one stream.

    sqnr_db: 10 log10(sum x^2 / sum err^2). rel_rmse: sqrt(sum err^2 / sum x^2). rel_mae: sum |err| / sum |x|.
    clip_rate: share of elements with |x| > threshold. zeroed: share of non-zero elements that become 0.
    scale: |x| represented by the smallest step of the integers, or by 1.0 of the float format. threshold: |x| that maps
    to the largest value. exact: False where magnitudes are known by their bin only, as those of float32 are; then
    `sqnr_db_bounds` holds what sqnr_db cannot leave, else twice sqnr_db. What has no value is nan.
    """

    sqnr_db: float
    rel_rmse: float
    rel_mae: float
    clip_rate: float
    zeroed: float
    scale: float
    threshold: float
    exact: bool
    sqnr_db_bounds: tuple[float, float]


@lru_cache
def grid(fmt: str) -> tuple[np.ndarray, float]:
    """The non-negative values of a format, ascending, divided by the largest; and that largest value."""
    if integer := re.fullmatch(r"int(\d{1,2})", fmt):
        bits = int(integer[1])
        if 2 <= bits <= 16:
            top = 2 ** (bits - 1) - 1
            return np.arange(top + 1) / top, float(top)
    # OCP 8-bit floating point: exponent bias 7 and 15, subnormals; e4m3 keeps one pattern for nan, e5m2 an exponent.
    for name, mantissa_bits, bias, n_values in (("fp8_e4m3", 3, 7, 127), ("fp8_e5m2", 2, 15, 124)):
        if fmt == name:
            exponent, fraction = np.divmod(np.arange(n_values), 2**mantissa_bits)
            significand = (exponent > 0) + fraction / 2**mantissa_bits
            values = np.ldexp(significand, np.maximum(exponent, 1) - bias)
            return values / values[-1], float(values[-1])
    raise ValueError(f"fmt: {fmt!r}, expected int2 to int16, fp8_e4m3 or fp8_e5m2")


def error_of(fmt: str, threshold: float, low: np.ndarray, high: np.ndarray, n: np.ndarray) -> QuantizationError:
    """The error of `fmt` at `threshold` on n[i] elements of magnitude low[i] to high[i] (ascending; equal if exact)."""
    levels, top = grid(fmt)
    x = (low + high) / 2
    error = _distance(levels, threshold, x)
    signal, noise = math.fsum(n * x**2), math.fsum(n * error**2)
    total, nonzero = int(n.sum()), int(n[high > 0].sum())
    # Where high > low the elements of a bin may lie anywhere in it.
    best, worst = noise, noise
    if (exact := bool((low == high).all())) is False:
        smallest, largest = _distance_range(levels, threshold, low, high)
        best = _db(math.fsum(n * high**2), math.fsum(n * smallest**2))
        worst = _db(math.fsum(n * low**2), math.fsum(n * largest**2))
    sqnr = _db(signal, noise)
    return QuantizationError(
        sqnr_db=sqnr,
        rel_rmse=_ratio(math.sqrt(noise), math.sqrt(signal)),
        rel_mae=_ratio(math.fsum(n * error), math.fsum(n * x)),
        clip_rate=_ratio(int(n[x > threshold].sum()), total),
        zeroed=_ratio(int(n[(x > 0) & ((x <= levels[1] * threshold / 2) | (threshold == 0))].sum()), nonzero),
        scale=threshold / top,
        threshold=threshold,
        exact=exact,
        sqnr_db_bounds=(sqnr, sqnr) if exact else (worst, best),
    )


def best_threshold(fmt: str, x: np.ndarray, n: np.ndarray) -> float:
    """The threshold, among the magnitudes x (ascending, n[i] of each), with the smallest squared error; ties: the largest.

    The squared error at thr is sum x^2 - 2 sum x q + sum q^2 over the elements, and q is constant between two midpoints
    of the grid, so with running sums of n, n x and n x^2 a threshold costs one look-up per level.
    """
    levels, _ = grid(fmt)
    candidates = x[x > 0]
    if not len(candidates):
        return 0.0
    unit = x[-1]  # keeps squares within float64 for every bf16
    if len(levels) < len(x):
        squared_error, total = _squared_errors(levels, candidates, x, n, unit)
        # Running sums cancel: what they cannot tell apart is decided by the sum itself.
        candidates = candidates[squared_error <= squared_error.min() + 1e-9 * total]
    squares = np.array([(n * (_distance(levels, c, x) / unit) ** 2).sum() for c in candidates])
    candidates = candidates[squares <= squares.min() * (1 + 1e-12)]
    return float(min(candidates, key=lambda c: (math.fsum(n * (_distance(levels, c, x) / unit) ** 2), -c)))


def _squared_errors(levels: np.ndarray, thresholds: np.ndarray, x: np.ndarray, n: np.ndarray, unit: float):
    """Sum err^2 at each threshold, and sum x^2, in units of unit^2."""
    below = [np.concatenate(([0.0], np.cumsum(n * (x / unit) ** power))) for power in (0, 1, 2)]
    middles = (levels[1:] + levels[:-1]) / 2
    squared_error = np.empty(len(thresholds))
    step = max(1, (1 << 22) // len(levels))
    for start in range(0, len(thresholds), step):
        thr = thresholds[start : start + step, None]  # [thresholds, 1]
        edges = np.searchsorted(x, thr * middles, side="right")  # [thresholds, levels - 1]
        edges = np.pad(edges, ((0, 0), (1, 1)), constant_values=((0, 0), (0, len(x))))
        count, first = (np.diff(sums[edges], axis=1) for sums in below[:2])
        q = thr / unit * levels
        squared_error[start : start + step] = below[2][-1] + (q * (q * count - 2 * first)).sum(1)
    return squared_error, below[2][-1]


def _distance(levels: np.ndarray, threshold: float, x: np.ndarray) -> np.ndarray:
    """|x - nearest of threshold * levels|"""
    middles = (levels[1:] + levels[:-1]) / 2 * threshold
    return np.abs(x - levels[np.searchsorted(middles, x)] * threshold)


def _distance_range(levels: np.ndarray, threshold: float, low: np.ndarray, high: np.ndarray):
    """Smallest and largest distance to the grid within each [low, high]: the ends, grid points and midpoints decide."""
    ends = _distance(levels, threshold, low), _distance(levels, threshold, high)
    smallest, largest = np.minimum(*ends), np.maximum(*ends)
    points, middles = levels * threshold, (levels[1:] + levels[:-1]) / 2 * threshold
    smallest[np.searchsorted(points, low) < np.searchsorted(points, high, side="right")] = 0.0
    widest = np.concatenate(([0.0], np.diff(points) / 2))
    first, last = np.searchsorted(middles, low), np.searchsorted(middles, high, side="right")
    # The gaps of every format widen upwards, so the last midpoint inside is the widest.
    inside = first < last
    largest[inside] = np.maximum(largest[inside], widest[last[inside]])
    return smallest, largest


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _db(signal: float, noise: float) -> float:
    if not signal:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf

"""Rows that read_kernel leaves: they hold nan, inf or numbers of 2^100 and more, or are too wide for registers. Each is
read again for every number it needs, mostly from a cache: right for any row."""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_int8 import lift_of
from .triton_words import FP16, FP32

_COLS = tl.constexpr(1024)
_ROUND = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52: adding it leaves a rounded integer, ties to even


@triton.jit
def slow_kernel(
    x_ptr, mask_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs,
    t_ratio, KIND: tl.constexpr, MASKED: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, INT8: tl.constexpr,
    LEADS: tl.constexpr,
):  # fmt: skip
    """In place of read_kernel where rows are too wide for it. Programs stride over rows."""
    B.let_the_next_begin(LEADS)
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))
    tied_bits, n_tied = tl.zeros([1], tl.int32), tl.zeros([1], tl.int64)
    row = tl.program_id(0)
    while row < n_rows:
        if B.is_on(row, n_rows, mask_ptr, MASKED):
            tied_bits, n_tied = slow_row(
                x_ptr, ids_ptr, book_ptr, rows_ptr, row, n_rows, inner, inner_stride, outer_stride, capacity, d, topk,
                t_abs, t_ratio, tied_bits, n_tied, KIND, NAMED, COUNTS, INT8)  # fmt: skip
        else:
            tl.store(B.column(rows_ptr, capacity, B.TOP, tl.int32) + row, B.HIDDEN)
            tl.store(B.column(rows_ptr, capacity, B.MEDIAN, tl.int32) + row, B.UNNEEDED)
        row += tl.num_programs(0)
    B.leave_tied(book_ptr, tl.program_id(0), tied_bits, n_tied)


@triton.jit
def slow_row(
    x_ptr, ids_ptr, book_ptr, rows_ptr, row, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs,
    t_ratio, tied_bits, n_tied, KIND: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    """All of a row that read_kernel does. Magnitudes are bits of float32 throughout. Returns the largest magnitude of the
    program's rows and how often it occurs."""
    x = x_ptr.to(tl.pointer_type(tl.int32 if KIND == FP32 else tl.int16))
    x += B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
    n_bad, positive, negative, least, total = _scan(x, book_ptr, d, KIND, COUNTS)
    top = tl.maximum(positive, negative)
    bits = top + tl.where(n_bad == d, B.EMPTY, 0)
    tl.atomic_max(book_ptr + B.POSITIVE, _key(positive, KIND).to(tl.int64), sem="relaxed")
    tl.atomic_max(book_ptr + B.NEGATIVE, _key(negative, KIND).to(tl.int64), sem="relaxed")
    if n_bad < d:
        tl.atomic_max(book_ptr + B.FROM_LEAST, (0x7FFFFFFF - _key(least, KIND)).to(tl.int64), sem="relaxed")
        n_top = d - n_bad - _count_below(x, d, top, KIND)
        n_tied = tl.where(top > tied_bits, n_top, n_tied + tl.where(top == tied_bits, n_top, 0))
        tied_bits = tl.maximum(tied_bits, top)
        id = tl.load(ids_ptr.to(tl.pointer_type(tl.int64)) + row) if NAMED else row.to(tl.int64)
        tl.atomic_max(book_ptr + B.SLOTS + row % topk, B.row_key(top, row, id, NAMED), sem="relaxed")
    if n_bad > 0:
        median = -2 - _nonfinite(x, book_ptr, d, KIND)
    else:
        median = _median(x, d, top, KIND)
        m = top.to(tl.float32, bitcast=True)
        floor = tl.maximum(t_abs, t_ratio * median.to(tl.float32, bitcast=True))
        if m > floor:
            n = d - _count_below(x, d, floor.to(tl.int32, bitcast=True) + 1, KIND)
            tl.atomic_add(B.field(book_ptr, B.N_MASSIVE_ELEMENTS, tl.int64), n, sem="relaxed")
    if INT8:
        _int8(x, rows_ptr, capacity, row, d, top, n_bad, KIND)
    tl.store(B.column(rows_ptr, capacity, B.TOP, tl.int32) + row, bits)
    tl.store(B.column(rows_ptr, capacity, B.MEDIAN, tl.int32) + row, median)
    tl.store(B.column(rows_ptr, capacity, B.ROW_SUM, tl.float64) + row, total)
    return tied_bits, n_tied


@triton.jit
def _sum(x):
    """The sum of x [1024], float64, in one order whatever lanes hold it: adding two numbers has no order."""
    for _step in tl.static_range(10):
        x = tl.sum(tl.reshape(x, [2, x.shape[0] // 2]), axis=0)
    return tl.sum(x, axis=0)


@triton.jit
def _key(bits, KIND: tl.constexpr):
    """A magnitude of float32 bits in the element type's own."""
    if KIND == FP16:
        return bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    elif KIND == FP32:
        return bits
    else:
        return bits >> 16


@triton.jit
def _scan(x, book_ptr, d, KIND: tl.constexpr, COUNTS: tl.constexpr):
    """Raises the features' maxima and counts; returns how many elements are not finite, the largest positive and negative
    magnitude (0: none), the smallest, and the sum of the others."""
    channel = B.field(book_ptr, B.CHANNEL_ABSMAX, tl.int32)
    n_bad, n_zero = tl.zeros([_COLS], tl.int32), tl.zeros([_COLS], tl.int32)
    positive, negative = tl.zeros([_COLS], tl.int32), tl.zeros([_COLS], tl.int32)
    least, total = tl.full([_COLS], 0x7FFFFFFF, tl.int32), tl.zeros([_COLS], tl.float64)
    for start in range(0, d, _COLS):
        feature = start + tl.arange(0, _COLS)
        bits = B.element_bits(x, feature, feature < d, KIND)
        magnitude = bits & 0x7FFFFFFF
        finite = (feature < d) & (magnitude < 0x7F800000)
        n_bad += ((feature < d) & ~finite).to(tl.int32)
        n_zero += (finite & (magnitude == 0)).to(tl.int32)
        positive = tl.maximum(positive, tl.where(finite & (bits >= 0), magnitude, 0))
        negative = tl.maximum(negative, tl.where(finite & (bits < 0), magnitude, 0))
        least = tl.minimum(least, tl.where(finite, magnitude, 0x7FFFFFFF))
        total += tl.where(finite, bits.to(tl.float32, bitcast=True), 0.0).to(tl.float64)
        kept = tl.load(channel + feature, mask=finite, other=0x7FFFFFFF)
        tl.atomic_max(channel + feature, magnitude, mask=finite & (magnitude > kept), sem="relaxed")
        if COUNTS:
            key = magnitude >> 16 if KIND == FP32 else _key(magnitude, KIND)
            cells = B.field(book_ptr, B.COUNTS, tl.int64) + key
            tl.atomic_add(cells, tl.full([_COLS], 1, tl.int64), mask=finite & (magnitude != 0), sem="relaxed")
    zeros, bad = tl.sum(n_zero, axis=0), tl.sum(n_bad, axis=0)
    B.add(book_ptr, B.N_ZERO, zeros)
    if COUNTS:
        B.add(book_ptr, B.COUNTS, zeros)
    return bad, tl.max(positive, axis=0), tl.max(negative, axis=0), tl.min(least, axis=0), _sum(total)


@triton.jit
def _nonfinite(x, book_ptr, d, KIND: tl.constexpr):
    """Counts nan and inf of a row that holds one; returns the first such feature."""
    n_nan, n_inf = tl.zeros([_COLS], tl.int32), tl.zeros([_COLS], tl.int32)
    first = tl.full([_COLS], 0x7FFFFFFF, tl.int32)
    for start in range(0, d, _COLS):
        feature = start + tl.arange(0, _COLS)
        magnitude = B.element_bits(x, feature, feature < d, KIND) & 0x7FFFFFFF
        n_nan += (magnitude > 0x7F800000).to(tl.int32)
        n_inf += (magnitude == 0x7F800000).to(tl.int32)
        first = tl.minimum(first, tl.where(magnitude >= 0x7F800000, feature, 0x7FFFFFFF))
    nans, infs = tl.sum(n_nan, axis=0), tl.sum(n_inf, axis=0)
    B.add(book_ptr, B.N_NAN, nans)
    B.add(book_ptr, B.N_INF, infs)
    tl.atomic_add(B.field(book_ptr, B.N_ELEMENTS, tl.int64), -(nans + infs).to(tl.int64), sem="relaxed")
    tl.atomic_add(B.field(book_ptr, B.N_NONFINITE_TOKENS, tl.int64), 1, sem="relaxed")
    return tl.min(first, axis=0)


@triton.jit
def _count_below(x, d, limit, KIND: tl.constexpr):
    """How many elements have a magnitude below `limit`, in bits of float32. int64"""
    n = tl.zeros([_COLS], tl.int64)
    for start in range(0, d, _COLS):
        feature = start + tl.arange(0, _COLS)
        magnitude = B.element_bits(x, feature, feature < d, KIND) & 0x7FFFFFFF
        n += ((feature < d) & (magnitude < limit)).to(tl.int64)
    return tl.sum(n, axis=0)


@triton.jit
def _median(x, d, top, KIND: tl.constexpr):
    """The lower median of a finite row by halving."""
    below, enough = top * 0 - 1, top
    while enough - below > 1:
        middle = below + (enough - below) // 2
        is_enough = _count_below(x, d, middle + 1, KIND) >= (d - 1) // 2 + 1
        below = tl.where(is_enough, below, middle)
        enough = tl.where(is_enough, middle, enough)
    return enough


@triton.jit
def _int8(x, rows_ptr, capacity, row, d, top, n_bad, KIND: tl.constexpr):
    """triton_int8.int8_sums; zeros for a row that is not finite."""
    counted = (n_bad == 0) & (top > 0)
    m = top.to(tl.float32, bitcast=True)
    lift = lift_of(m).to(tl.float64)
    lifted = tl.where(counted, m.to(tl.float64) * lift, 1.0)
    for i in tl.static_range(2):  # y, then its error: four sums at once leave too few registers
        square, total = tl.zeros([_COLS], tl.float64), tl.zeros([_COLS], tl.float64)
        for start in range(0, d, _COLS):
            feature = start + tl.arange(0, _COLS)
            bits = B.element_bits(x, feature, feature < d, KIND)
            y = tl.abs(tl.where(counted, bits, 0).to(tl.float32, bitcast=True).to(tl.float64)) * lift
            if i == 1:
                u = y * 127 / lifted
                y = tl.abs((u + _ROUND) - _ROUND - u)
            square += y * y
            total += y
        tl.store(B.column(rows_ptr, capacity, B.INT8 + 4 * i, tl.float64) + row, _sum(square))
        tl.store(B.column(rows_ptr, capacity, B.INT8 + 4 * i + 2, tl.float64) + row, _sum(total) / (lift if i == 0 else 1.0))

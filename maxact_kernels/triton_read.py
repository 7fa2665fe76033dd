"""The Triton kernel that reads the tensor: each element once, a few words a row written.

Programs stride over tiles of R rows (triton_words.py), each of which lies in registers while the next is on its way. The
features' maxima lie in registers too, and are given to the state once. What is left of a row is folded by
triton_fold.py.
"""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_count import count_words, flush_counts, open_counts
from .triton_int8 import int8_sums
from .triton_median import median_keys
from .triton_words import (
    BF16,
    FP16,
    FP32,
    at_most,
    floor_key,
    key_value,
    largest_unsigned,
    load_words,
    magnitudes,
    mean_key,
    survey,
)


@triton.jit
def any_of(flags):
    return tl.max(flags.to(tl.int32), axis=0) > 0


@triton.jit
def read_kernel(
    x_ptr, mask_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs,
    t_ratio, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr, AHEAD: tl.constexpr,
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, MEDIANS: tl.constexpr,
    INT8: tl.constexpr, PACKED: tl.constexpr, N_BINS: tl.constexpr,
):  # fmt: skip
    """Of each row m_t, the sum and, where it can matter, med_t; per feature the maxima; counts of elements.

    A median is looked for where the token can set a record or be massive: r_t >= R iff at least (d - 1) // 2 + 1
    elements are at most m_t / R, one count. `MEDIANS`: of every row. `AHEAD`: the next tile is loaded before this one is
    looked at.
    """
    PER_WORD: tl.constexpr = 1 if KIND == FP32 else 2
    N_SLOTS: tl.constexpr = K * L * PER_WORD  # places for elements, of which the last are padding
    # Rows with nan, inf or elements of 2^100 and more, whose sum float32 may not hold, are left to slow_kernel.
    ODD: tl.constexpr = 0x7C00 if KIND == FP16 else (227 << 7) if KIND == BF16 else (227 << 23)
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))  # the interpreter passes addresses
    pid, n_programs = tl.program_id(0), tl.num_programs(0)
    n_words, n_tiles = (d + PER_WORD - 1) // PER_WORD, (n_rows + R - 1) // R
    pads, rank = N_SLOTS - d, N_SLOTS - d + (d - 1) // 2 + 1
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    medians = B.column(rows_ptr, capacity, B.MEDIAN, tl.int32)
    sums = B.column(rows_ptr, capacity, B.ROW_SUM, tl.float64)
    slots, best = book_ptr + B.SLOTS, book_ptr + B.BEST_RATIO
    # Records that the state has already.
    old_ratio = tl.load(B.field(book_ptr, B.RATIO_MAX, tl.float32))
    old_ratio = tl.where(old_ratio == old_ratio, old_ratio, 0.0)
    old_absmax = tl.load(B.field(book_ptr, B.ABSMAX, tl.int32))

    peaks = ()
    for k in tl.static_range(K):
        peaks = peaks + (tl.zeros([R, L], tl.int32),)
    most_positive, most_negative, from_least = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    tied_bits, n_tied = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    n_zero, n_massive = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    offset = tl.zeros([R], tl.float32)  # of a row's median key from the mean of its keys, as rows before had it
    width = tl.full([R], 1.0 if KIND != FP32 else 65536.0, tl.float32)  # keys for each rank near the median

    row = pid * R + tl.arange(0, R)
    on = B.is_on(row, n_rows, mask_ptr, MASKED)
    at = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
    if AHEAD or COUNTS:
        words = load_words(x_ptr, at, on, n_words, d, KIND, ALIGNED, R, L, K)
    if COUNTS:
        first_positive, first_negative, _least, _sum = survey(words, n_words, d, KIND, PACKED, R, L, K)
        table = open_counts(tl.max(tl.maximum(first_positive, first_negative), axis=0), KIND, N_BINS)
    for tile in range(pid, n_tiles, n_programs):
        if AHEAD:
            next_row = row + n_programs * R
            next_on = B.is_on(next_row, n_rows, mask_ptr, MASKED)
            at = B.row_offset(next_row, n_rows, inner, inner_stride, outer_stride)
            next_words = load_words(x_ptr, at, next_on, n_words, d, KIND, ALIGNED, R, L, K)
        else:
            on = B.is_on(row, n_rows, mask_ptr, MASKED)
            at = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
            words = load_words(x_ptr, at, on, n_words, d, KIND, ALIGNED, R, L, K)
        id = tl.load(ids_ptr.to(tl.pointer_type(tl.int64)) + row, mask=on, other=0) if NAMED else row
        slot = tl.load(slots + row % topk)
        best_ratio = tl.load(best, volatile=True).to(tl.int32).to(tl.float32, bitcast=True)
        best_peak = tl.load(best + 1, volatile=True)
        best_absmax = tl.load(best + 2, volatile=True).to(tl.int32)

        positive, negative, least, total = survey(words, n_words, d, KIND, PACKED, R, L, K)
        top = tl.maximum(positive, negative)
        if any_of(on & (top >= ODD)):
            odd = on & (top >= ODD)
            n_odd = tl.sum(odd.to(tl.int32), axis=0)
            first = tl.atomic_add(book_ptr + B.N_SLOW, n_odd.to(tl.int64)).to(tl.int32)
            listed = B.column(rows_ptr, capacity, B.CANDIDATE, tl.int32) + first
            tl.store(listed + tl.cumsum(odd.to(tl.int32), axis=0) - 1, row, mask=odd)
            even = ()
            for k in tl.static_range(K):
                even = even + (tl.where(odd[:, None], 0, words[k]),)
            words = even
            on = on & (top < ODD)
        top = tl.where(on, top, 0)
        least = tl.where(on, least, 0x7FFFFFFF)
        most_positive = tl.maximum(most_positive, tl.where(on, positive, 0))
        most_negative = tl.maximum(most_negative, tl.where(on, negative, 0))
        from_least = tl.maximum(from_least, 0x7FFFFFFF - least)
        zeros = tl.zeros([R], tl.int32)
        if any_of(least == 0):
            zeros = at_most(words, tl.zeros([R], tl.int32), KIND, PACKED, R, L, K) - pads
            zeros = tl.where(on, zeros, 0)
            n_zero += zeros

        m = key_value(top, KIND)
        bits = m.to(tl.int32, bitcast=True)
        key = B.row_key(bits, row, id, NAMED)
        if MEDIANS:
            needs = on
        else:
            # Division and product may round to either side: a little more is allowed.
            reach = tl.maximum(best_ratio, old_ratio)
            reach = tl.where(m > t_abs, tl.minimum(reach, t_ratio), reach)
            reach_key = tl.minimum(floor_key(tl.where(m > 0, m / reach * 1.00001, 0.0), KIND), top)
            reached = at_most(words, reach_key, KIND, PACKED, R, L, K)
            needs = on & ((reached >= rank) | (key >= best_peak))
        ties = on & (bits >= tl.maximum(best_absmax, old_absmax))
        median_bits = tl.full([R], B.UNNEEDED, tl.int32)
        if MEDIANS or any_of(needs | ties):
            scale = 65536 if KIND == FP32 else 1
            level = mean_key(words, d, KIND, PACKED, R, L, K)
            guess = ((level + offset) * scale).to(tl.int32)
            found, found_width = median_keys(words, needs, top, guess, width, rank, KIND, PACKED, R, L, K)
            offset = tl.where(needs, offset + 0.25 * (found.to(tl.float32) / scale - level - offset), offset)
            width = tl.where(needs, width + 0.25 * (found_width - width), width)
            median = key_value(found, KIND)
            median_bits = tl.where(needs, median.to(tl.int32, bitcast=True), median_bits)
            # Not r_t > t_ratio: this product and that quotient can round to different sides.
            floor = tl.maximum(t_abs, t_ratio * median)
            massive = needs & (m > floor)
            if any_of(massive):
                few = at_most(words, tl.minimum(floor_key(floor, KIND), top), KIND, PACKED, R, L, K)
                n_massive += tl.where(massive, N_SLOTS - few, 0)
            if any_of(ties):
                less = at_most(words, tl.maximum(top - 1, 0), KIND, PACKED, R, L, K)
                equal = tl.where(top == 0, d, N_SLOTS - less)
                n_tied = tl.where(ties & (bits > tied_bits), 0, n_tied) + tl.where(ties & (bits >= tied_bits), equal, 0)
                tied_bits = tl.where(ties, tl.maximum(tied_bits, bits), tied_bits)
                tl.atomic_max(best + 2, tl.max(tl.where(ties, bits, 0), axis=0).to(tl.int64), sem="relaxed")
            if not MEDIANS:
                ratio = tl.where(needs & (m > 0), tl.div_rn(m, median), 0.0)
                tl.atomic_max(best, tl.max(ratio.to(tl.int32, bitcast=True), axis=0).to(tl.int64), sem="relaxed")
                tl.atomic_max(best + 1, tl.max(tl.where(needs, key, 0), axis=0), sem="relaxed")
        median_bits = tl.where(on & (top == 0), 0, median_bits)

        raised = ()
        for k in tl.static_range(K):
            raised = raised + (largest_unsigned(peaks[k], magnitudes(words[k], KIND), KIND, PACKED),)
        peaks = raised
        if COUNTS:
            count_words(words, table, top, least, zeros, pads, book_ptr, KIND, PACKED, R, L, K, N_BINS)
        if INT8:
            addends = int8_sums(words, m, on, KIND, R, L, K)
            for i in tl.static_range(4):
                int8 = B.column(rows_ptr, capacity, B.INT8, tl.float64) + i * capacity.to(tl.int64)
                tl.store(int8 + row, addends[i], mask=row < n_rows)
        tl.store(tops + row, tl.where(on, bits, B.HIDDEN), mask=row < n_rows)
        tl.store(medians + row, median_bits, mask=row < n_rows)
        tl.store(sums + row, total, mask=row < n_rows)
        tl.atomic_max(slots + row % topk, key, mask=on & (key > slot), sem="relaxed")
        if AHEAD:
            on, words = next_on, next_words
        row += n_programs * R

    channel = B.field(book_ptr, B.CHANNEL_ABSMAX, tl.int32)
    for k in tl.static_range(K):
        place = k * L + tl.arange(0, L)
        _raise(channel, place * PER_WORD, peaks[k] if KIND == FP32 else peaks[k] & 0xFFFF, d, KIND)
        if KIND != FP32:
            _raise(channel, place * PER_WORD + 1, peaks[k] >> 16, d, KIND)
    if COUNTS:
        flush_counts(table, tl.sum(n_zero.to(tl.int64), axis=0), book_ptr, N_BINS)
    tl.atomic_max(best + 3, tl.max(most_positive, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_max(best + 4, tl.max(most_negative, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_max(best + 5, tl.max(from_least, axis=0).to(tl.int64), sem="relaxed")
    B.leave_tied(book_ptr, pid, tied_bits, n_tied)
    B.add(book_ptr, B.N_ZERO, tl.sum(n_zero.to(tl.int64), axis=0))
    B.add(book_ptr, B.N_MASSIVE_ELEMENTS, tl.sum(n_massive.to(tl.int64), axis=0))


@triton.jit
def _raise(channel, feature, keys, d, KIND: tl.constexpr):
    """Raise the state's maxima of the features by the largest of keys [R, L] over rows."""
    bits = key_value(tl.max(keys, axis=0), KIND).to(tl.int32, bitcast=True)
    inside = feature < d
    # Read first: after the first tensor of a stream few rise, and a million additions take 20 us.
    kept = tl.load(channel + feature, mask=inside, other=0x7FFFFFFF)
    tl.atomic_max(channel + feature, bits, mask=inside & (bits > kept))


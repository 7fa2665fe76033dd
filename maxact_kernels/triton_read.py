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
    repair,
    survey,
)


@triton.jit
def any_of(flags):
    return tl.max(flags.to(tl.int32), axis=0) > 0


@triton.jit
def read_kernel(
    x_ptr, mask_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs,
    t_ratio, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr, ALIGNED: tl.constexpr,
    MASKED: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, MEDIANS: tl.constexpr, INT8: tl.constexpr,
    PACKED: tl.constexpr, N_BINS: tl.constexpr,
):  # fmt: skip
    """Of each row m_t, the sum and, where it can matter, med_t; per feature the maxima; counts of elements.

    A median is looked for where the token can set a record or be massive: r_t >= R iff at least (d - 1) // 2 + 1
    elements are at most m_t / R, one count. `MEDIANS`: of every row.
    """
    PER_WORD: tl.constexpr = 1 if KIND == FP32 else 2
    INF: tl.constexpr = 0x7C00 if KIND == FP16 else 0x7F80 if KIND == BF16 else 0x7F800000
    # Rows with elements of 2^100 and more are summed in float64.
    ODD: tl.constexpr = 0x7C00 if KIND == FP16 else (227 << 7) if KIND == BF16 else (227 << 23)
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))  # the interpreter passes addresses
    pid, n_programs = tl.program_id(0), tl.num_programs(0)
    n_words, n_tiles = (d + PER_WORD - 1) // PER_WORD, (n_rows + R - 1) // R
    pads, rank = K * L * PER_WORD - d, K * L * PER_WORD - d + (d - 1) // 2 + 1
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    medians = B.column(rows_ptr, capacity, B.MEDIAN, tl.int32)
    sums = B.column(rows_ptr, capacity, B.ROW_SUM, tl.float64)
    slots, best = book_ptr + B.SLOTS, book_ptr + B.BEST_RATIO

    peaks = ()
    for k in tl.static_range(K):
        peaks = peaks + (tl.zeros([R, L], tl.int32),)
    most_positive, most_negative, from_least = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    tied_bits, n_tied = tl.zeros([R], tl.int32), tl.zeros([R], tl.int64)
    n_kept, n_zero, n_massive = tl.zeros([R], tl.int64), tl.zeros([R], tl.int64), tl.zeros([R], tl.int64)
    n_nan, n_inf, n_sick = tl.zeros([R], tl.int64), tl.zeros([R], tl.int64), tl.zeros([R], tl.int64)
    offset = tl.zeros([R], tl.float32)  # of a row's median key from the mean of its keys, as rows before had it
    width = tl.full([R], 1.0 if KIND != FP32 else 65536.0, tl.float32)  # keys for each rank near the median

    row = pid * R + tl.arange(0, R)
    on = B.is_on(row, n_rows, mask_ptr, MASKED)
    at = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
    words = load_words(x_ptr, at, on, n_words, d, KIND, ALIGNED, R, L, K)
    if COUNTS:
        first_top = survey(words, n_words, d, KIND, PACKED, False, R, L, K)[5]
        table = open_counts(tl.max(first_top, axis=0), KIND, N_BINS)
    for tile in range(pid, n_tiles, n_programs):
        next_row = (tile + n_programs) * R + tl.arange(0, R)
        next_on = B.is_on(next_row, n_rows, mask_ptr, MASKED)
        at = B.row_offset(next_row, n_rows, inner, inner_stride, outer_stride)
        next_words = load_words(x_ptr, at, next_on, n_words, d, KIND, ALIGNED, R, L, K)
        id = tl.load(ids_ptr.to(tl.pointer_type(tl.int64)) + row, mask=on, other=0) if NAMED else row
        slot = tl.load(slots + row % topk)
        best_ratio = tl.load(best, volatile=True).to(tl.int32).to(tl.float32, bitcast=True)
        best_peak = tl.load(best + 1, volatile=True)
        best_absmax = tl.load(best + 2, volatile=True).to(tl.int32)

        positive, negative, least, total, level, top = survey(words, n_words, d, KIND, PACKED, True, R, L, K)
        whole, n_bad = on, tl.zeros([R], tl.int32)
        median_bits = tl.full([R], B.UNNEEDED, tl.int32)
        if any_of(on & (top >= ODD)):
            words, nans, infs, first, least, total = repair(words, n_words, d, KIND, PACKED, R, L, K)
            positive, negative, _least, _sum, level, top = survey(words, n_words, d, KIND, PACKED, True, R, L, K)
            n_bad = nans + infs
            whole = on & (n_bad == 0)
            median_bits = tl.where(n_bad > 0, -2 - first, median_bits)
            n_nan += tl.where(on, nans, 0)
            n_inf += tl.where(on, infs, 0)
            n_sick += (on & (n_bad > 0)).to(tl.int64)
        n_kept += on.to(tl.int64)
        least = tl.where(on, least, 0x7FFFFFFF)
        has_any = on & (n_bad < d)
        most_positive = tl.maximum(most_positive, tl.where(has_any, positive, 0))
        most_negative = tl.maximum(most_negative, tl.where(has_any, negative, 0))
        from_least = tl.maximum(from_least, tl.where(has_any, 0x7FFFFFFF - least, 0))
        zeros = tl.zeros([R], tl.int32)
        if any_of(has_any & (least == 0)):
            zeros = tl.where(on, at_most(words, tl.zeros([R], tl.int32), KIND, PACKED, R, L, K) - pads - n_bad, 0)
            n_zero += zeros

        m = key_value(top, KIND)
        bits = m.to(tl.int32, bitcast=True)
        peak_key = B.row_key(bits, row, -9223372036854775808, NAMED)
        if MEDIANS:
            needs = whole
        else:
            # Division and product may round to either side: a little more is allowed.
            reach = tl.where(m > t_abs, tl.minimum(best_ratio, t_ratio), best_ratio)
            reach_key = tl.minimum(floor_key(tl.where(m > 0, m / reach * 1.00001, 0.0), KIND), top)
            reached = at_most(words, reach_key, KIND, PACKED, R, L, K)
            needs = whole & ((reached >= rank) | (peak_key >= best_peak))
        ties = has_any & (bits >= best_absmax)
        if MEDIANS or any_of(needs | ties):
            scale = 65536 if KIND == FP32 else 1
            guess = ((level + offset) * scale).to(tl.int32)
            key, found = median_keys(words, needs, top, guess, width, rank, K * L * PER_WORD, KIND, PACKED, R, L, K)
            offset = tl.where(needs, offset + 0.25 * (key.to(tl.float32) / scale - level - offset), offset)
            width = tl.where(needs, width + 0.25 * (found - width), width)
            median = key_value(key, KIND)
            median_bits = tl.where(needs, median.to(tl.int32, bitcast=True), median_bits)
            # Not r_t > t_ratio: this product and that quotient can round to different sides.
            floor = tl.maximum(t_abs, t_ratio * median)
            massive = needs & (m > floor)
            if any_of(massive):
                few = at_most(words, tl.minimum(floor_key(floor, KIND), top), KIND, PACKED, R, L, K)
                n_massive += tl.where(massive, K * L * PER_WORD - few, 0)
            if any_of(ties):
                less = at_most(words, tl.maximum(top - 1, 0), KIND, PACKED, R, L, K)
                equal = tl.where(top == 0, d - n_bad, K * L * PER_WORD - less)
                same = (tied_bits == bits) & (n_tied > 0)
                n_tied = tl.where(ties, tl.where(same, n_tied + equal, tl.where(bits >= tied_bits, equal, n_tied)), n_tied)
                tied_bits = tl.where(ties, tl.maximum(tied_bits, bits), tied_bits)
                tl.atomic_max(best + 2, tl.max(tl.where(ties, bits, 0), axis=0).to(tl.int64))
            if not MEDIANS or any_of(peak_key >= best_peak):
                ratio = tl.where(needs & (m > 0), tl.div_rn(m, median), 0.0)
                tl.atomic_max(best, tl.max(ratio.to(tl.int32, bitcast=True), axis=0).to(tl.int64))
                tl.atomic_max(best + 1, tl.max(tl.where(needs, peak_key, 0), axis=0))
        median_bits = tl.where(whole & (top == 0), 0, median_bits)

        raised = ()
        for k in tl.static_range(K):
            raised = raised + (largest_unsigned(peaks[k], magnitudes(words[k], KIND), KIND, PACKED),)
        peaks = raised
        if COUNTS:
            count_words(words, table, top, least, zeros, pads + n_bad, book_ptr, KIND, PACKED, R, L, K, N_BINS)
        if INT8:
            addends = int8_sums(words, m, whole, KIND, R, L, K)
            for i in tl.static_range(4):
                int8 = B.column(rows_ptr, capacity, B.INT8, tl.float64) + i * capacity.to(tl.int64)
                tl.store(int8 + row, addends[i], mask=row < n_rows)
        tl.store(tops + row, tl.where(has_any, bits, tl.where(on, B.EMPTY, B.HIDDEN)), mask=row < n_rows)
        tl.store(medians + row, median_bits, mask=row < n_rows)
        tl.store(sums + row, total, mask=row < n_rows)
        key = B.row_key(bits, row, id, NAMED)
        tl.atomic_max(slots + row % topk, key, mask=has_any & (key > slot))
        row, on, words = next_row, next_on, next_words

    channel = B.field(book_ptr, B.CHANNEL_ABSMAX, tl.int32)
    for k in tl.static_range(K):
        place = k * L + tl.arange(0, L)
        _raise(channel, place * PER_WORD, peaks[k] if KIND == FP32 else peaks[k] & 0xFFFF, d, KIND)
        if KIND != FP32:
            _raise(channel, place * PER_WORD + 1, peaks[k] >> 16, d, KIND)
    if COUNTS:
        flush_counts(table, tl.sum(n_zero, axis=0), book_ptr, N_BINS)
    tl.atomic_max(best + 3, tl.max(most_positive, axis=0).to(tl.int64))
    tl.atomic_max(best + 4, tl.max(most_negative, axis=0).to(tl.int64))
    tl.atomic_max(best + 5, tl.max(from_least, axis=0).to(tl.int64))
    tied = tl.max(tied_bits, axis=0)
    n = tl.sum(tl.where(tied_bits == tied, n_tied, 0), axis=0)
    tl.store(book_ptr + B.TIED + pid, (tied.to(tl.int64) << 32) | n)
    n_bad_elements = tl.sum(n_nan + n_inf, axis=0)
    B.add(book_ptr, B.N_ELEMENTS, tl.sum(n_kept, axis=0) * d - n_bad_elements)
    B.add(book_ptr, B.N_ZERO, tl.sum(n_zero, axis=0))
    B.add(book_ptr, B.N_MASSIVE_ELEMENTS, tl.sum(n_massive, axis=0))
    if n_bad_elements > 0:
        B.add(book_ptr, B.N_NAN, tl.sum(n_nan, axis=0))
        B.add(book_ptr, B.N_INF, tl.sum(n_inf, axis=0))
        B.add(book_ptr, B.N_NONFINITE_TOKENS, tl.sum(n_sick, axis=0))
    tl.atomic_add(best + 7, tl.sum(n_kept, axis=0))


@triton.jit
def _raise(channel, feature, keys, d, KIND: tl.constexpr):
    """Raise the state's maxima of the features by the largest of keys [R, L] over rows."""
    bits = key_value(tl.max(keys, axis=0), KIND).to(tl.int32, bitcast=True)
    inside = feature < d
    # Read first: after the first tensor of a stream few rise, and a million additions take 20 us.
    kept = tl.load(channel + feature, mask=inside, other=0x7FFFFFFF)
    tl.atomic_max(channel + feature, bits, mask=inside & (bits > kept))


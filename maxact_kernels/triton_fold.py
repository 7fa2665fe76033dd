"""What is left of the rows goes to the state, in Triton: sums, the ratio table, samples, and which rows may hold some of
the k largest elements. Each program takes a piece of the rows, and first does what read_kernel left of them."""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_int8 import in_units
from .triton_slow import slow_row
from .triton_sums import add_exactly, flush_sum, open_sums

BLOCK = tl.constexpr(512)  # 128 rows and one warp a program take half as long again


@triton.jit
def fold_kernel(
    x_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs, t_ratio,
    n_samples, first_tie, KIND: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, MEDIANS: tl.constexpr,
    INT8: tl.constexpr, SAMPLES: tl.constexpr, MAX_TOPK: tl.constexpr, FOLLOWS: tl.constexpr,
    SUMS: tl.constexpr,
):  # fmt: skip
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))
    pid, n_programs = tl.program_id(0), tl.num_programs(0)
    piece = (n_rows + n_programs - 1) // n_programs
    begin = pid * piece
    end = tl.minimum(begin + piece, n_rows)
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    # Every address at once: one wait for all.
    if MEDIANS:
        table = B.field(book_ptr, B.RATIO_TABLE, tl.int64)
    first_token = tl.load(B.field(book_ptr, B.N_TOKENS, tl.int64))

    exact = open_sums(SUMS)
    k = tl.arange(0, MAX_TOPK)
    kept_values = B.field(book_ptr, B.TOPK_VALUES, tl.int32)
    if pid == 0:
        _begin_list(book_ptr, kept_values, k, topk)
        tl.store(book_ptr + B.FIRST_TOKEN, first_token)
    # Elements below the last of a full list have no place in it.
    last = tl.load(kept_values + topk - 1) & 0x7FFFFFFF
    last = tl.where(last > 0x7F800000, 0, last)
    B.await_the_one_before(FOLLOWS)
    bar = tl.min(tl.load(book_ptr + B.SLOTS + k, mask=k < topk, other=9223372036854775807), axis=0)

    # Records, one a lane; ids are rows where nobody named them.
    none = tl.full([BLOCK], 9223372036854775807, tl.int64)
    zero = tl.zeros([BLOCK], tl.int32)
    ratio = (zero, none, zero, zero)  # bits of r_t, id, bits of m_t, of med_t
    peak = (zero - 1, none, zero)  # bits of m_t, id, bits of med_t
    bad = (none, zero + 0x7FFFFFFF)  # id, feature
    tied_bits, n_tied = tl.zeros([1], tl.int32), tl.zeros([1], tl.int64)
    n_kept, n_massive, n_zero_median, n_outside, n_ratios = zero, zero, zero, zero, zero
    for start in range(begin, end, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = row < end
        top, median, total, int8 = _left_of(rows_ptr, capacity, row, inside, INT8)
        slow = tl.min(tl.where(top == B.SLOW, row, n_rows), axis=0)
        if slow < n_rows:
            left = top
            while slow < n_rows:
                tied_bits, n_tied = slow_row(
                    x_ptr, ids_ptr, book_ptr, rows_ptr, slow, n_rows, inner, inner_stride, outer_stride, capacity, d,
                    topk, t_abs, t_ratio, tied_bits, n_tied, KIND, NAMED, COUNTS, INT8)  # fmt: skip
                left = tl.where(row == slow, B.HIDDEN, left)
                slow = tl.min(tl.where(left == B.SLOW, row, n_rows), axis=0)
            tl.debug_barrier()
            top, median, total, int8 = _left_of(rows_ptr, capacity, row, inside, INT8)
        on = top != B.HIDDEN
        id = row.to(tl.int64)
        if NAMED:
            id = tl.load(ids_ptr.to(tl.pointer_type(tl.int64)) + row, mask=inside, other=0)
        n_kept += on.to(tl.int32)

        known = on & (median >= 0)
        m, med = tl.maximum(top, 0).to(tl.float32, bitcast=True), tl.maximum(median, 0).to(tl.float32, bitcast=True)
        has_ratio = known & (top > 0)
        r = tl.where(has_ratio, tl.div_rn(m, tl.where(has_ratio, med, 1.0)), 0.0)
        r_bits = r.to(tl.int32, bitcast=True)
        n_zero_median += (has_ratio & (median == 0)).to(tl.int32)
        massive = (known & (m > t_abs) & (r > t_ratio) & has_ratio).to(tl.int32)
        n_massive += massive
        ratio = _better_ratio(ratio, (tl.where(has_ratio, r_bits, 0), id, top, median), has_ratio)
        peak = _better_peak(peak, (top, id, median), known)
        sick = on & (median < B.UNNEEDED)
        is_first = sick & ((id < bad[0]) | ((id == bad[0]) & (-2 - median < bad[1])))
        bad = (tl.where(is_first, id, bad[0]), tl.where(is_first, -2 - median, bad[1]))

        add_exactly(exact, 0, book_ptr, B.SUM, total, on, SUMS)
        if SAMPLES:
            n_outside += _samples(book_ptr, tops, id, first_token, start, row, n_rows, top, massive, on, n_samples, NAMED)
        if MEDIANS:
            finite = has_ratio & (r_bits < 0x7F800000)
            n_ratios += finite.to(tl.int32)
            wide = tl.where(finite, r, 0.0).to(tl.float64)
            add_exactly(exact, 1, book_ptr, B.RATIO_SUM, wide, finite, SUMS)
            add_exactly(exact, 2, book_ptr, B.RATIO_SQUARE_SUM, wide * wide, finite, SUMS)
            _count_ratios(table, top, r_bits, has_ratio)
        if INT8:
            addends = in_units(int8, m)
            for i in tl.static_range(4):
                add_exactly(exact, 1 + 2 * MEDIANS + i, book_ptr, B.INT8_SQUARE_SUM + i, addends[i], on, SUMS)

        # Of the rows in the order (m_t descending, id) the k first hold all of the k largest elements.
        wanted = (top >= 0) & (B.row_key(top, row, id, NAMED) >= bar) & (top >= last)
        n_wanted = tl.sum(wanted.to(tl.int32), axis=0)
        if n_wanted > 0:
            at = tl.atomic_add(book_ptr + B.N_CANDIDATES, n_wanted.to(tl.int64)).to(tl.int32)
            candidates = B.column(rows_ptr, capacity, B.CANDIDATE, tl.int32)
            tl.store(candidates + at + tl.cumsum(wanted.to(tl.int32), axis=0) - 1, row, mask=wanted)
            if NAMED:
                tl.debug_barrier()
                places = B.column(rows_ptr, capacity, B.PLACE, tl.int64)
                for place in range(at, at + n_wanted):
                    one = tl.load(candidates + place)
                    offset = B.row_offset(one, n_rows, inner, inner_stride, outer_stride)
                    tl.store(places + place, _first_place(x_ptr, offset, d, tl.load(tops + one), KIND))

    tl.debug_barrier()
    flush_sum(exact, 0, book_ptr, B.SUM, SUMS)
    if MEDIANS:
        flush_sum(exact, 1, book_ptr, B.RATIO_SUM, SUMS)
        flush_sum(exact, 2, book_ptr, B.RATIO_SQUARE_SUM, SUMS)
    if INT8:
        for i in tl.static_range(4):
            flush_sum(exact, 1 + 2 * MEDIANS + i, book_ptr, B.INT8_SQUARE_SUM + i, SUMS)
    B.leave_tied(book_ptr, first_tie + pid, tied_bits, n_tied)
    folded = book_ptr + B.FOLDED + pid * B.RECORD
    ratio_bits, id, m_bits, med_bits = best_ratio(ratio)
    tl.store(folded, ratio_bits.to(tl.int64))
    tl.store(folded + 1, id)
    tl.store(folded + 2, m_bits.to(tl.int64))
    tl.store(folded + 3, med_bits.to(tl.int64))
    m_bits, id, med_bits = best_peak(peak)
    tl.store(folded + 4, m_bits.to(tl.int64))
    tl.store(folded + 5, id)
    tl.store(folded + 6, med_bits.to(tl.int64))
    id = tl.min(bad[0], axis=0)
    tl.store(folded + 7, id)
    # An id of 2^63 - 1 is a name like any other: what tells that there is none is the feature.
    feature = tl.min(tl.where(bad[0] == id, bad[1], 0x7FFFFFFF), axis=0)
    tl.store(folded + 8, feature.to(tl.int64))
    kept = tl.sum(n_kept, axis=0).to(tl.int64)
    tl.store(book_ptr + B.KEPT + pid, kept)
    tl.atomic_add(book_ptr + B.N_KEPT, kept, sem="relaxed")
    B.add(book_ptr, B.N_ELEMENTS, kept * d)
    B.add(book_ptr, B.N_MASSIVE_TOKENS, tl.sum(n_massive, axis=0))
    B.add(book_ptr, B.N_ZERO_MEDIAN, tl.sum(n_zero_median, axis=0))
    B.add(book_ptr, B.N_OUTSIDE_SAMPLES, tl.sum(n_outside, axis=0))
    if MEDIANS:
        B.add(book_ptr, B.N_RATIOS, tl.sum(n_ratios, axis=0))


@triton.jit
def _left_of(rows_ptr, capacity, row, inside, INT8: tl.constexpr):
    """Of each row m_t or what stands for it, med_t, the sum, and those of INT-8: loaded at once, one wait for all."""
    top = tl.load(B.column(rows_ptr, capacity, B.TOP, tl.int32) + row, mask=inside, other=B.HIDDEN)
    median = tl.load(B.column(rows_ptr, capacity, B.MEDIAN, tl.int32) + row, mask=inside, other=B.UNNEEDED)
    total = tl.load(B.column(rows_ptr, capacity, B.ROW_SUM, tl.float64) + row, mask=inside, other=0.0)
    int8 = ()
    for i in tl.static_range(4 if INT8 else 0):
        int8 = int8 + (tl.load(B.column(rows_ptr, capacity, B.INT8 + 2 * i, tl.float64) + row, mask=inside, other=0.0),)
    return top, median, total, int8


@triton.jit
def _better_ratio(a, b, on):
    """Of two records the first by (r_t descending, id, m_t descending, med_t descending); bits of positive floats."""
    better = (b[0] > a[0]) | ((b[0] == a[0]) & (
        (b[1] < a[1]) | ((b[1] == a[1]) & ((b[2] > a[2]) | ((b[2] == a[2]) & (b[3] > a[3]))))))  # fmt: skip
    better = better & on
    return (tl.where(better, b[0], a[0]), tl.where(better, b[1], a[1]), tl.where(better, b[2], a[2]), tl.where(better, b[3], a[3]))  # fmt: skip


@triton.jit
def _better_peak(a, b, on):
    """Of two records the first by (m_t descending, id, med_t descending)."""
    better = (b[0] > a[0]) | ((b[0] == a[0]) & ((b[1] < a[1]) | ((b[1] == a[1]) & (b[2] > a[2]))))
    better = better & on
    return (tl.where(better, b[0], a[0]), tl.where(better, b[1], a[1]), tl.where(better, b[2], a[2]))


@triton.jit
def best_ratio(record):
    """The first of records, one a lane; ratio bits of 0: there is none."""
    r = tl.max(record[0], axis=0)
    in_r = record[0] == r
    id = tl.min(tl.where(in_r, record[1], 9223372036854775807), axis=0)
    in_id = in_r & (record[1] == id)
    m = tl.max(tl.where(in_id, record[2], 0), axis=0)
    return r, id, m, tl.max(tl.where(in_id & (record[2] == m), record[3], 0), axis=0)


@triton.jit
def best_peak(record):
    """The first of records, one a lane; negative bits of m_t: there is none."""
    m = tl.max(record[0], axis=0)
    in_m = record[0] == m
    id = tl.min(tl.where(in_m, record[1], 9223372036854775807), axis=0)
    return m, id, tl.max(tl.where(in_m & (record[1] == id), record[2], 0), axis=0)


@triton.jit
def _samples(book_ptr, tops, id, first_token, start, row, n_rows, top, massive, on, n_samples, NAMED: tl.constexpr):
    """Raise the samples' maxima by m_t and count their tokens. Returns which rows name no sample. [BLOCK] int32"""
    if NAMED:
        sample = id >> 32
    else:
        sample = tl.zeros([BLOCK], tl.int64) + (first_token >> 32)
        if (first_token >> 32) != ((first_token + n_rows) >> 32):  # once in 2^32 tokens
            before = B.count_kept(tops, 0, start)
            sample = (first_token + before + tl.cumsum(on.to(tl.int64), axis=0) - 1) >> 32
    inside = on & (sample >= 0) & (sample < n_samples)
    maxima = B.field(book_ptr, B.SAMPLE_ABSMAX, tl.int32)
    tokens, massives = B.field(book_ptr, B.SAMPLE_TOKENS, tl.int64), B.field(book_ptr, B.SAMPLE_MASSIVE, tl.int64)
    # Rows of one sample add once, as a block mostly holds one or two samples; from the fourth on each row for itself.
    rest = tl.where(inside, sample, 9223372036854775807)
    lowest, turn = tl.min(rest, axis=0), 0
    while (lowest < n_samples) & (turn < 3):
        mine = rest == lowest
        tl.atomic_max(maxima + lowest, tl.max(tl.where(mine, top, 0), axis=0), sem="relaxed")
        tl.atomic_add(tokens + lowest, tl.sum(mine.to(tl.int64), axis=0), sem="relaxed")
        tl.atomic_add(massives + lowest, tl.sum(tl.where(mine, massive, 0).to(tl.int64), axis=0), sem="relaxed")
        rest = tl.where(mine, 9223372036854775807, rest)
        lowest = tl.min(rest, axis=0)
        turn += 1
    inside_rest = rest < n_samples
    kept = tl.load(maxima + sample, mask=inside_rest, other=0)
    tl.atomic_max(maxima + sample, top, mask=inside_rest & (top > kept), sem="relaxed")
    tl.atomic_add(tokens + sample, tl.full([BLOCK], 1, tl.int64), mask=inside_rest, sem="relaxed")
    tl.atomic_add(massives + sample, massive.to(tl.int64), mask=inside_rest & (massive > 0), sem="relaxed")
    return (on & ~inside).to(tl.int32)


@triton.jit
def _count_ratios(table, top, r_bits, has_ratio):
    """ratio_table: keys are float32 bits >> 21, from 2^-24 and from 1, clamped at the ends."""
    i = tl.minimum(tl.maximum((top >> 21) - 412, 0), 255)
    j = tl.minimum(tl.maximum((r_bits >> 21) - 508, 0), 127)
    cell = tl.where(has_ratio, i * 128 + j, -1)
    # Rows that tie add once: 131,072 additions to one cell take 100 us.
    most = tl.max(cell, axis=0)
    if most >= 0:
        tl.atomic_add(table + most, tl.sum((cell == most).to(tl.int64), axis=0), sem="relaxed")
    others = (cell >= 0) & (cell != most)
    tl.atomic_add(table + cell, tl.full([BLOCK], 1, tl.int64), mask=others, sem="relaxed")


@triton.jit
def _begin_list(book_ptr, kept_values, k, topk):
    """The list of elements that may be among the k largest begins with those that the state has."""
    values = tl.load(kept_values + k, mask=k < topk, other=0x7FC00000)
    ids = tl.load(B.field(book_ptr, B.TOPK_TOKEN_IDS, tl.int64) + k, mask=k < topk, other=0)
    features = tl.load(B.field(book_ptr, B.TOPK_FEATURES, tl.int64) + k, mask=k < topk, other=0)
    is_element = (values & 0x7FFFFFFF) <= 0x7F800000
    entries = B.field(book_ptr, B.ENTRIES, tl.int64)
    tl.store(entries + k * 3, values.to(tl.int64), mask=is_element)
    tl.store(entries + k * 3 + 1, ids, mask=is_element)
    tl.store(entries + k * 3 + 2, features, mask=is_element)
    tl.store(book_ptr + B.N_ENTRIES, tl.sum(is_element.to(tl.int64), axis=0))


@triton.jit
def _first_place(x_ptr, offset, d, top, KIND: tl.constexpr):
    """Twice the first feature whose magnitude is m_t, plus one if it is negative."""
    place = tl.full([1024], 9223372036854775807, tl.int64)
    for start in range(0, d, 1024):
        feature = start + tl.arange(0, 1024)
        bits = B.element_bits(x_ptr, offset + feature, feature < d, KIND)
        found = (feature < d) & ((bits & 0x7FFFFFFF) == top)
        place = tl.minimum(place, tl.where(found, 2 * feature.to(tl.int64) + (bits < 0).to(tl.int64), 9223372036854775807))
    return tl.min(place, axis=0)

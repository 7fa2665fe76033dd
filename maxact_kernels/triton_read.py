"""The Triton kernel that reads the tensor: each element once, a few words a row written.

Programs take tiles of R rows (triton_words.py), each of which lies in registers, or is looked at twice in shared memory
(triton_looks.py), while the next is on its way. The features' maxima lie in registers too or, where PTX is, in shared memory, and
are given to the state once. What is left of a row is folded by triton_fold.py.
"""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_count import count_words, flush_counts, open_counts
from .triton_deal import dealt, draw, next_tile
from .triton_int8 import int8_sums, inverse_of, is_lifted, lift_of, store_sums
from .triton_looks import first_look, second_look
from .triton_median import halved_medians, median_keys
from .triton_peaks import open_table, peaks_at, raise_peaks
from .triton_stage import ask_for_tile, await_tile, clear_tile, open_stage, take_tile
from .triton_words import (
    BF16,
    FP16,
    FP32,
    at_most,
    ends,
    floor_key,
    largest_magnitude,
    largest_unsigned,
    load_words,
    low_value,
    mean_key,
    parts_of_sum,
    smallest,
    without_signs,
)


@triton.jit
def any_of(flags):
    return tl.max(flags.to(tl.int32), axis=0) > 0


@triton.jit
def read_kernel(
    x_ptr, mask_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, t_abs,
    t_ratio, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr, AHEAD: tl.constexpr,
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, NAMED: tl.constexpr, COUNTS: tl.constexpr, MEDIANS: tl.constexpr,
    INT8: tl.constexpr, PACKED: tl.constexpr, N_BINS: tl.constexpr, PEAKS: tl.constexpr,
    STAGE: tl.constexpr, TWICE: tl.constexpr, LEADS: tl.constexpr,
):  # fmt: skip
    """Of each row m_t, the sum and, where it can matter, med_t; per feature the maxima; counts of elements.

    A median is looked for where the token can set a record or be massive: r_t >= R iff at least (d - 1) // 2 + 1
    elements are at most m_t / R, one count. `MEDIANS`: of every row. `AHEAD`: the next tile is loaded before this one is
    looked at. `PEAKS`: what opens a table of the features' maxima (triton_peaks.py), `STAGE`: a place for the next tile
    (triton_stage.py), of whose tiles some go to whoever asks (triton_deal.py). `TWICE`: they are looked at twice there
    (triton_looks.py).
    """
    B.let_the_next_begin(LEADS)
    PER_WORD: tl.constexpr = 1 if KIND == FP32 else 2
    N_SLOTS: tl.constexpr = K * L * PER_WORD  # places for elements, of which the last are padding
    # Rows with nan, inf or elements of 2^100 and more, whose sum float32 may not hold, are left to triton_slow.py.
    ODD: tl.constexpr = 0x7C00 if KIND == FP16 else (227 << 7) if KIND == BF16 else (227 << 23)
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))  # the interpreter passes addresses
    pid, n_programs = tl.program_id(0), tl.num_programs(0)
    n_words, n_tiles = (d + PER_WORD - 1) // PER_WORD, (n_rows + R - 1) // R
    pads, rank = N_SLOTS - d, N_SLOTS - d + (d - 1) // 2 + 1
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    medians = B.column(rows_ptr, capacity, B.MEDIAN, tl.int32)
    sums = B.column(rows_ptr, capacity, B.ROW_SUM, tl.float64)
    int8_column = B.column(rows_ptr, capacity, B.INT8, tl.float64)
    slots = book_ptr + B.SLOTS
    # Records of the state, which nobody changes meanwhile, and this program's own. Not those of other programs: each
    # thread loads for itself, so one that others change may differ between threads, and they would part at a branch.
    share_of_bar = _share(_number(book_ptr, B.RATIO_MAX) + tl.zeros([R], tl.float32))
    share_of_ratio = _share(t_ratio + tl.zeros([R], tl.float32))
    peak_bar = _number(book_ptr, B.PEAK_ABSMAX).to(tl.int32, bitcast=True)
    tie_bar = tl.load(B.field(book_ptr, B.ABSMAX, tl.int32)) + tl.zeros([R], tl.int32)
    best_key = tl.zeros([R], tl.int64)

    lane_words = tl.arange(0, R)[:, None] * L + tl.arange(0, L)[None, :]
    peaks = ()
    if PEAKS == "":
        for _k in tl.static_range(K):
            peaks = peaks + (tl.zeros([R, L], tl.int32),)
    else:
        lane_words = open_table(PEAKS) + 4 * lane_words
    # A row that stays within what earlier ones showed of both signs changes nothing.
    most_positive = floor_key(tl.maximum(_number(book_ptr, B.MAX), 0.0), KIND) + tl.zeros([R], tl.int32)
    most_negative = floor_key(tl.maximum(_number(book_ptr, B.NEG_MIN), 0.0), KIND) + tl.zeros([R], tl.int32)
    from_least = tl.zeros([R], tl.int32)
    n_tied = tl.zeros([R], tl.int32)  # elements that equal tie_bar
    n_zero, n_massive = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    offset = tl.zeros([R], tl.float32)  # of a row's median key from the mean of its keys, as rows before had it
    width = tl.full([R], 1.0 if KIND != FP32 else 65536.0, tl.float32)  # keys for each rank near the median

    row = pid * R + tl.arange(0, R)
    slot_of_row, slot_step = row % topk, (n_programs * R) % topk
    on = B.is_on(row, n_rows, mask_ptr, MASKED)
    here = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
    if AHEAD or COUNTS:
        words = load_words(x_ptr, here, on, n_words, d, KIND, ALIGNED, R, L, K)
    if COUNTS:
        table = open_counts(tl.max(largest_magnitude(words, KIND, PACKED, R, L, K), axis=0), KIND, N_BINS)
    if STAGE != "":
        staged = open_stage(STAGE, x_ptr, here, on, n_words, R, L)
        ask_for_tile(staged, x_ptr, here, on, n_words, R, L, K)
    tile, n_dealt, drawn = pid, dealt(n_tiles, n_programs), 0
    if STAGE != "":
        drawn = draw(book_ptr, tile - n_programs, n_dealt, n_programs)
    while tile < n_tiles:
        following = tile + n_programs
        if STAGE != "":
            following = next_tile(tile, drawn, n_dealt, n_programs)
            drawn = draw(book_ptr, tile, n_dealt, n_programs)
        if AHEAD or STAGE != "":
            next_row = following * R + tl.arange(0, R)
            next_on = B.is_on(next_row, n_rows, mask_ptr, MASKED)
            there = B.row_offset(next_row, n_rows, inner, inner_stride, outer_stride)
            if AHEAD:
                next_words = load_words(x_ptr, there, next_on, n_words, d, KIND, ALIGNED, R, L, K)
            elif TWICE:
                await_tile()
            else:
                words = take_tile(staged, R, L, K)
                ask_for_tile(staged, x_ptr, there, next_on, n_words, R, L, K)
        else:
            on = B.is_on(row, n_rows, mask_ptr, MASKED)
            here = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
            words = load_words(x_ptr, here, on, n_words, d, KIND, ALIGNED, R, L, K)
        id = tl.load(ids_ptr.to(tl.pointer_type(tl.int64)) + row, mask=on, other=0) if NAMED else row
        slot = tl.load(slots + slot_of_row)

        if TWICE:
            top, parts = first_look(staged, n_words, KIND, L, K)
        else:
            top, parts = largest_magnitude(words, KIND, PACKED, R, L, K), parts_of_sum(words, KIND, PACKED, R, L, K)
            words = without_signs(words, KIND, K)
        odd = on & (top >= ODD)
        if any_of(odd):
            tl.store(tops + row, B.SLOW, mask=odd)
            if TWICE:
                clear_tile(staged, R, L, K)
            else:
                even = ()
                for k in tl.static_range(K):
                    even = even + (tl.where(odd[:, None], 0, words[k]),)
                words = even
            on = on & (top < ODD)
        top = tl.where(on, top, 0)
        if any_of(top > tl.minimum(most_positive, most_negative)):
            signed = load_words(x_ptr, here, on, n_words, d, KIND, ALIGNED, R, L, K)
            positive, negative = ends(signed, KIND, PACKED, R, L, K)
            most_positive = tl.maximum(most_positive, positive)
            most_negative = tl.maximum(most_negative, negative)
        m = low_value(top, KIND)
        bits = m.to(tl.int32, bitcast=True)
        key = B.row_key(bits, row, id, NAMED)
        share = tl.where(m > t_abs, tl.maximum(share_of_bar, share_of_ratio), share_of_bar)
        reach_key = tl.minimum(floor_key(tl.where(m > 0, m * share, 0.0), KIND), top)
        if TWICE:
            lift = lift_of(m)
            inverse = inverse_of(m, lift)
            source = x_ptr.to(tl.int64) + (there * 16)[:, None] + 4 * tl.arange(0, L)[None, :]
            if is_lifted(m, lift, KIND):
                least, reached, square, absolute, error_square, error_total = second_look(
                    staged, lane_words, source, next_on, reach_key, inverse, lift, n_words, KIND != FP16, KIND, L, K)
            else:
                least, reached, square, absolute, error_square, error_total = second_look(
                    staged, lane_words, source, next_on, reach_key, inverse, lift, n_words, False, KIND, L, K)
        else:
            least = smallest(words, n_words, d, KIND, PACKED, R, L, K)
        least = tl.where(on, least, 0x7FFFFFFF)
        from_least = tl.maximum(from_least, 0x7FFFFFFF - least)
        zeros = tl.zeros([R], tl.int32)
        if any_of(least == 0):
            if TWICE:
                words = without_signs(load_words(x_ptr, here, on, n_words, d, KIND, ALIGNED, R, L, K), KIND, K)
            zeros = at_most(words, tl.zeros([R], tl.int32), KIND, PACKED, R, L, K) - pads
            zeros = tl.where(on, zeros, 0)
            n_zero += zeros

        if PEAKS == "":
            raised = ()
            for k in tl.static_range(K):
                raised = raised + (largest_unsigned(peaks[k], words[k], KIND, PACKED),)
            peaks = raised
        elif not TWICE:
            raise_peaks(lane_words, words, KIND, ALIGNED, R, L, K)
        if COUNTS:
            count_words(words, table, top, least, zeros, pads, book_ptr, KIND, PACKED, R, L, K, N_BINS)
        if TWICE:
            store_sums(parts, square, absolute, error_square, error_total, sums + row, int8_column + row, capacity)
        elif INT8:
            sums_of_row = int8_sums(words, parts, m, KIND, PACKED, R, L, K)
            tl.store(sums + row, sums_of_row[0], mask=row < n_rows)
            for i in tl.static_range(4):
                tl.store(int8_column + i * capacity + row, sums_of_row[i + 1], mask=row < n_rows)
        else:
            tl.store(sums + row, tl.sum(parts.to(tl.float64), axis=1), mask=row < n_rows)
        if MEDIANS:
            needs = on
        else:
            if not TWICE:
                reached = at_most(words, reach_key, KIND, PACKED, R, L, K)
            needs = on & (top > 0) & ((reached >= rank) | ((bits >= peak_bar) & (key >= best_key)))
        ties = on & (bits >= tie_bar)
        median_bits = tl.full([R], B.UNNEEDED, tl.int32)
        if MEDIANS or any_of(needs | ties):
            # Where it is rare the row is read again, from a cache: nothing has to be kept for it.
            if MEDIANS:
                again = words
            else:
                again = without_signs(load_words(x_ptr, here, on, n_words, d, KIND, ALIGNED, R, L, K), KIND, K)
            if R >= 8:
                found = halved_medians(again, needs, top, least, rank, KIND, PACKED, R, L, K)
            else:
                scale = 65536 if KIND == FP32 else 1
                level = mean_key(again, d, KIND, PACKED, R, L, K)
                guess = ((level + offset) * scale).to(tl.int32)
                found, found_width = median_keys(again, needs, top, guess, width, rank, KIND, PACKED, R, L, K)
                offset = tl.where(needs, offset + 0.25 * (found.to(tl.float32) / scale - level - offset), offset)
                width = tl.where(needs, width + 0.25 * (found_width - width), width)
            median = low_value(found, KIND)
            median_bits = tl.where(needs, median.to(tl.int32, bitcast=True), median_bits)
            # Not r_t > t_ratio: this product and that quotient can round to different sides.
            floor = tl.maximum(t_abs, t_ratio * median)
            massive = needs & (m > floor)
            if any_of(massive):
                few = at_most(again, tl.minimum(floor_key(floor, KIND), top), KIND, PACKED, R, L, K)
                n_massive += tl.where(massive, N_SLOTS - few, 0)
            if any_of(ties & (top > 0)):
                less = at_most(again, tl.maximum(top - 1, 0), KIND, PACKED, R, L, K)
                equal = N_SLOTS - less
                n_tied = tl.where(ties, tl.where(bits > tie_bar, 0, n_tied) + equal, n_tied)
                tie_bar = tl.where(ties, bits, tie_bar)
            if not MEDIANS:
                ratio = tl.where(needs, tl.div_rn(m, median), 0.0)
                share_of_bar = tl.minimum(share_of_bar, _share(ratio))
                best_key = tl.maximum(best_key, tl.where(needs, key, 0))
        # In a tensor of zeros every element ties.
        n_tied += tl.where(ties & (top == 0), d, 0)
        median_bits = tl.where(on & (top == 0), 0, median_bits)

        tl.store(tops + row, tl.where(on, bits, B.HIDDEN), mask=(row < n_rows) & ~odd)
        tl.store(medians + row, median_bits, mask=row < n_rows)
        tl.atomic_max(slots + slot_of_row, key, mask=on & (key > slot), sem="relaxed")
        if AHEAD:
            on, words, here = next_on, next_words, there
        if STAGE != "":
            on, here = next_on, there
        tile = following
        row = tile * R + tl.arange(0, R)
        slot_of_row += slot_step
        slot_of_row = tl.where(slot_of_row >= topk, slot_of_row - topk, slot_of_row)

    channel = B.field(book_ptr, B.CHANNEL_ABSMAX, tl.int32)
    if PEAKS == "":
        for k in tl.static_range(K):
            _flush_peaks(channel, peaks[k], k * L, d, KIND, L)
    else:
        tl.debug_barrier()
        for k in range(K):
            _flush_peaks(channel, peaks_at(lane_words, k, R, L), k * L, d, KIND, L)
    if COUNTS:
        flush_counts(table, tl.sum(n_zero.to(tl.int64), axis=0), book_ptr, N_BINS)
    tl.atomic_max(book_ptr + B.POSITIVE, tl.max(most_positive, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_max(book_ptr + B.NEGATIVE, tl.max(most_negative, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_max(book_ptr + B.FROM_LEAST, tl.max(from_least, axis=0).to(tl.int64), sem="relaxed")
    B.leave_tied(book_ptr, pid, tie_bar, n_tied)
    B.add(book_ptr, B.N_ZERO, tl.sum(n_zero.to(tl.int64), axis=0))
    B.add(book_ptr, B.N_MASSIVE_ELEMENTS, tl.sum(n_massive.to(tl.int64), axis=0))


@triton.jit
def _number(book_ptr, NAME: tl.constexpr):
    """A record of the state, 0 if there is none."""
    record = tl.load(B.field(book_ptr, NAME, tl.float32))
    return tl.where(record == record, record, 0.0)


@triton.jit
def _share(ratio):
    """Of m_t what a median must not exceed if r_t is to be this ratio; a little more, since all of it is rounded."""
    return tl.div_rn(1.00001, ratio)


@triton.jit
def _flush_peaks(channel, keys, first_word, d, KIND: tl.constexpr, L: tl.constexpr):
    place = first_word + tl.arange(0, L)
    if KIND == FP32:
        _raise(channel, place, keys, d, KIND)
    else:
        _raise(channel, place * 2, keys & 0xFFFF, d, KIND)
        _raise(channel, place * 2 + 1, keys >> 16, d, KIND)


@triton.jit
def _raise(channel, feature, keys, d, KIND: tl.constexpr):
    """Raise the state's maxima of the features by the largest of keys [R, L] over rows."""
    bits = low_value(tl.max(keys, axis=0), KIND).to(tl.int32, bitcast=True)
    inside = feature < d
    # Read first: after the first tensor of a stream few rise, and a million additions take 20 us.
    kept = tl.load(channel + feature, mask=inside, other=0x7FFFFFFF)
    tl.atomic_max(channel + feature, bits, mask=inside & (bits > kept), sem="relaxed")


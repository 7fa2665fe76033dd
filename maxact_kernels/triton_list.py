"""The k largest elements, and the end of an update, in Triton.

list_kernel finds the k first of the candidate rows and lists their elements that may matter; order_kernel gives each its
rank among all listed, which is its place in the state, and folds what programs left of records.
"""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_fold import best_peak, best_ratio
from .triton_words import low_value

# A candidate may list as many elements as this, though fewer could matter: looking for the few costs more.
AT_LEAST = tl.constexpr(16)
N_CLOSING = tl.constexpr(6)


@triton.jit
def list_kernel(
    x_ptr, ids_ptr, book_ptr, rows_ptr, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, n_pieces,
    KIND: tl.constexpr, MASKED: tl.constexpr, NAMED: tl.constexpr, MAX_TOPK: tl.constexpr, N_PIECES: tl.constexpr,
    COLS: tl.constexpr, MORE: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Each program takes some candidates: the rank of one by (m_t descending, id, first feature of m_t, sign), all told
    apart; if it is among the k first, its k - rank first elements, since `rank` elements come before all of them."""
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    candidates = B.column(rows_ptr, capacity, B.CANDIDATE, tl.int32)
    places = B.column(rows_ptr, capacity, B.PLACE, tl.int64)
    ids = ids_ptr.to(tl.pointer_type(tl.int64)) if NAMED else book_ptr
    entries = B.field(book_ptr, B.ENTRIES, tl.int64)
    last = tl.load(B.field(book_ptr, B.TOPK_VALUES, tl.int32) + topk - 1) & 0x7FFFFFFF
    B.await_the_one_before(FOLLOWS)
    n_candidates = tl.load(book_ptr + B.N_CANDIDATES).to(tl.int32)
    first_token = tl.load(book_ptr + B.FIRST_TOKEN)
    k = tl.arange(0, MAX_TOPK)
    bar = tl.min(tl.load(book_ptr + B.SLOTS + k, mask=k < topk, other=9223372036854775807), axis=0)
    least = tl.maximum((bar >> 32).to(tl.int32), tl.where(last > 0x7F800000, 0, last))
    piece = (n_rows + n_pieces - 1) // n_pieces
    for i in range(tl.program_id(0), n_candidates, tl.num_programs(0)):
        row = tl.load(candidates + i)
        offset = B.row_offset(row, n_rows, inner, inner_stride, outer_stride)
        first = _elements(x_ptr, offset, 0, d, KIND, COLS)
        second = _elements(x_ptr, offset, COLS, d, KIND, MORE) if MORE else first
        top = tl.load(tops + row)
        id, place = row.to(tl.int64), row.to(tl.int64)
        if NAMED:
            id, place = tl.load(ids + row), tl.load(places + i)
        n_before = tl.zeros([1024], tl.int32)
        for start in range(0, n_candidates, 1024):
            j = start + tl.arange(0, 1024)
            inside = j < n_candidates
            other = tl.load(candidates + j, mask=inside, other=0)
            other_top = tl.load(tops + other, mask=inside, other=-1)
            other_id, other_place = other.to(tl.int64), other.to(tl.int64)
            if NAMED:
                other_id = tl.load(ids + other, mask=inside, other=0)
                other_place = tl.load(places + j, mask=inside, other=0)
            before = (other_place < place) | ((other_place == place) & (other < row))
            before = (other_id < id) | ((other_id == id) & before)
            n_before += ((other_top > top) | ((other_top == top) & before)).to(tl.int32)
        rank = tl.sum(n_before, axis=0)
        if rank < topk:
            if not NAMED:
                id = B.default_id(book_ptr, tops, row, n_rows, piece, first_token, MASKED, N_PIECES)
            _list_row(first, second, x_ptr, book_ptr, entries, offset, d, id, top, least, tl.minimum(tl.maximum(topk - rank, AT_LEAST), topk), KIND, COLS, MORE)


@triton.jit
def _elements(x_ptr, offset, start, d, KIND: tl.constexpr, COLS: tl.constexpr):
    """COLS elements of a row from `start` on, as bits of float32; nan where there is none."""
    feature = start + tl.arange(0, COLS)
    return tl.where(feature < d, B.element_bits(x_ptr, offset + feature, feature < d, KIND), 0x7FC00000)


@triton.jit
def _count_from(first, second, x_ptr, offset, d, least, KIND: tl.constexpr, COLS: tl.constexpr, MORE: tl.constexpr):
    """How many finite elements of a row have a magnitude of at least `least`; `first`: its first COLS elements, `second`: the
    next MORE. int32"""
    n = _are_from(first, least)
    if MORE:
        n = tl.sum(tl.reshape(n, [MORE, COLS // MORE]), axis=1) + _are_from(second, least)
        for start in range(COLS + MORE, d, MORE):
            n += _are_from(_elements(x_ptr, offset, start, d, KIND, MORE), least)
    return tl.sum(n, axis=0)


@triton.jit
def _are_from(bits, least):
    magnitude = bits & 0x7FFFFFFF
    return ((magnitude >= least) & (magnitude < 0x7F800000)).to(tl.int32)


@triton.jit
def _list_row(
    first, second, x_ptr, book_ptr, entries, offset, d, id, top, least, most, KIND: tl.constexpr, COLS: tl.constexpr,
    MORE: tl.constexpr,
):  # fmt: skip
    """List the elements of a row from `least` on, but only the first `most` by (|x| descending, feature)."""
    STEP: tl.constexpr = 65536 if KIND == 0 else 8192 if KIND == 1 else 1  # between numbers of the element type
    n = _count_from(first, second, x_ptr, offset, d, least, KIND, COLS, MORE)
    floor = least - 1  # all above it are listed, and of those that equal it n_equal
    n_equal = n * 0
    if n > most:
        high = top + STEP
        floor = least
        n_above = n * 0
        while high - floor > STEP:  # at least `most` elements from `floor` on, fewer from `high` on
            middle = floor + (high - floor) // (2 * STEP) * STEP
            n = _count_from(first, second, x_ptr, offset, d, middle, KIND, COLS, MORE)
            floor = tl.where(n >= most, middle, floor)
            n_above = tl.where(n >= most, n_above, n)
            high = tl.where(n >= most, high, middle)
        n_equal = most - n_above
    n_equal = _list_part(first, 0, book_ptr, entries, id, floor, n_equal, COLS)
    if MORE:
        n_equal = _list_part(second, COLS, book_ptr, entries, id, floor, n_equal, MORE)
        for start in range(COLS + MORE, d, MORE):
            bits = _elements(x_ptr, offset, start, d, KIND, MORE)
            n_equal = _list_part(bits, start, book_ptr, entries, id, floor, n_equal, MORE)


@triton.jit
def _list_part(bits, start, book_ptr, entries, id, floor, n_equal, COLS: tl.constexpr):
    """List what is above `floor`, and the first n_equal of what equals it. Returns what is left of n_equal."""
    magnitude = bits & 0x7FFFFFFF
    finite = magnitude < 0x7F800000
    equal = (finite & (magnitude == floor)).to(tl.int32)
    n_here = tl.sum(equal, axis=0)
    if n_here > n_equal:
        equal = equal & (tl.cumsum(equal, axis=0) <= n_equal).to(tl.int32)
    listed = (finite & (magnitude > floor)) | (equal > 0)
    # Few, and in any order.
    counter = (book_ptr + B.N_ENTRIES).to(tl.pointer_type(tl.int32)) + tl.zeros([COLS], tl.int32)
    at = 3 * tl.atomic_add(counter, tl.full([COLS], 1, tl.int32), mask=listed, sem="relaxed")
    tl.store(entries + at, bits.to(tl.int64), mask=listed)
    tl.store(entries + at + 1, id, mask=listed)
    tl.store(entries + at + 2, (start + tl.arange(0, COLS)).to(tl.int64), mask=listed)
    return tl.maximum(n_equal - n_here, 0)


@triton.jit
def order_kernel(
    ids_ptr, book_ptr, rows_ptr, n_rows, capacity, topk, n_pieces, n_ties, KIND: tl.constexpr,
    MASKED: tl.constexpr, NAMED: tl.constexpr, MAX_TOPK: tl.constexpr, N_PIECES: tl.constexpr, MINE: tl.constexpr,
    OTHERS: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """Six programs close the books, a part each; each of the others ranks MINE entries at a time, by counting those before."""
    book_ptr = book_ptr.to(tl.pointer_type(tl.int64))
    entries = B.field(book_ptr, B.ENTRIES, tl.int64)
    values, ids = B.field(book_ptr, B.TOPK_VALUES, tl.int32), B.field(book_ptr, B.TOPK_TOKEN_IDS, tl.int64)
    features = B.field(book_ptr, B.TOPK_FEATURES, tl.int64)
    B.await_the_one_before(FOLLOWS)
    pid, n_programs = tl.program_id(0) - N_CLOSING, tl.num_programs(0) - N_CLOSING
    if pid < 0:
        _close(-pid, book_ptr, rows_ptr, n_rows, capacity, topk, n_pieces, n_ties, KIND, MASKED, NAMED, MAX_TOPK, N_PIECES)
    else:
        n = tl.load(book_ptr + B.N_ENTRIES).to(tl.int32)
        for start in range(pid * MINE, n, n_programs * MINE):
            i = start + tl.arange(0, MINE)
            mine = i < n
            value = tl.load(entries + i * 3, mask=mine, other=0).to(tl.int32)
            id = tl.load(entries + i * 3 + 1, mask=mine, other=0)
            feature = tl.load(entries + i * 3 + 2, mask=mine, other=0)
            key, place = (value & 0x7FFFFFFF)[:, None], (feature * 2 + (value < 0).to(tl.int64))[:, None]
            rank = tl.zeros([MINE], tl.int32)
            for other_start in range(0, n, OTHERS):
                j = other_start + tl.arange(0, OTHERS)
                inside = j < n
                other = tl.load(entries + j * 3, mask=inside, other=0).to(tl.int32)
                other_id = tl.load(entries + j * 3 + 1, mask=inside, other=0)[None, :]
                other_place = tl.load(entries + j * 3 + 2, mask=inside, other=0) * 2 + (other < 0).to(tl.int64)
                other_key, other_place = (other & 0x7FFFFFFF)[None, :], other_place[None, :]
                before = (other_place < place) | ((other_place == place) & (j[None, :] < i[:, None]))
                before = (other_id < id[:, None]) | ((other_id == id[:, None]) & before)
                before = (other_key > key) | ((other_key == key) & before)
                rank += tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
            kept = mine & (rank < topk)
            tl.store(values + rank, value, mask=kept)
            tl.store(ids + rank, id, mask=kept)
            tl.store(features + rank, feature, mask=kept)


@triton.jit
def _close(part, book_ptr, rows_ptr, n_rows, capacity, topk, n_pieces, n_ties, KIND: tl.constexpr,
           MASKED: tl.constexpr, NAMED: tl.constexpr, MAX_TOPK: tl.constexpr, N_PIECES: tl.constexpr):  # fmt: skip
    """What programs left of records goes to the state, and the book is ready for the next update."""
    tops = B.column(rows_ptr, capacity, B.TOP, tl.int32)
    first_token = tl.load(book_ptr + B.FIRST_TOKEN)
    piece = (n_rows + n_pieces - 1) // n_pieces
    folded = book_ptr + B.FOLDED + tl.arange(0, N_PIECES) * B.RECORD
    inside = tl.arange(0, N_PIECES) < n_pieces

    if part == 1:
        bits = tl.load(folded, mask=inside, other=0).to(tl.int32)
        id = tl.load(folded + 1, mask=inside, other=9223372036854775807)
        m, med = tl.load(folded + 2, mask=inside, other=0).to(tl.int32), tl.load(folded + 3, mask=inside, other=0).to(tl.int32)
        r, id, m, med = best_ratio((bits, id, m, med))
        if r > 0:
            if not NAMED:
                id = B.default_id(book_ptr, tops, id, n_rows, piece, first_token, MASKED, N_PIECES)
            kept = B.field(book_ptr, B.RATIO_MAX, tl.int32)
            kept_id = B.field(book_ptr, B.RATIO_MAX_TOKEN, tl.int64)
            kept_m, kept_med = B.field(book_ptr, B.RATIO_MAX_ABSMAX, tl.int32), B.field(book_ptr, B.RATIO_MAX_MEDIAN, tl.int32)
            old = _or_none(tl.load(kept))
            is_same = (r == old) & (id == tl.load(kept_id))
            better = (m > tl.load(kept_m)) | ((m == tl.load(kept_m)) & (med > tl.load(kept_med)))
            if (r > old) | ((r == old) & (id < tl.load(kept_id))) | (is_same & better):
                tl.store(kept, r)
                tl.store(kept_id, id)
                tl.store(kept_m, m)
                tl.store(kept_med, med)
    elif part == 2:
        m = tl.load(folded + 4, mask=inside, other=-1).to(tl.int32)
        id = tl.load(folded + 5, mask=inside, other=9223372036854775807)
        m, id, med = best_peak((m, id, tl.load(folded + 6, mask=inside, other=0).to(tl.int32)))
        if m >= 0:
            if not NAMED:
                id = B.default_id(book_ptr, tops, id, n_rows, piece, first_token, MASKED, N_PIECES)
            kept, kept_id = B.field(book_ptr, B.PEAK_ABSMAX, tl.int32), B.field(book_ptr, B.PEAK_TOKEN, tl.int64)
            kept_med = B.field(book_ptr, B.PEAK_MEDIAN, tl.int32)
            old = _or_none(tl.load(kept))
            is_same = (m == old) & (id == tl.load(kept_id))
            if (m > old) | ((m == old) & (id < tl.load(kept_id))) | (is_same & (med > tl.load(kept_med))):
                tl.store(kept, m)
                tl.store(kept_id, id)
                tl.store(kept_med, med)
    elif part == 3:
        ids = tl.load(folded + 7, mask=inside, other=9223372036854775807)
        features = tl.load(folded + 8, mask=inside, other=0x7FFFFFFF)
        id = tl.min(ids, axis=0)
        feature = tl.min(tl.where(ids == id, features, 0x7FFFFFFF), axis=0)
        if feature < 0x7FFFFFFF:
            if not NAMED:
                id = B.default_id(book_ptr, tops, id, n_rows, piece, first_token, MASKED, N_PIECES)
            kept_id = B.field(book_ptr, B.FIRST_NONFINITE_TOKEN, tl.int64)
            kept = B.field(book_ptr, B.FIRST_NONFINITE_FEATURE, tl.int64)
            if (id < tl.load(kept_id)) | ((id == tl.load(kept_id)) & (feature < tl.load(kept))):
                tl.store(kept_id, id)
                tl.store(kept, feature)
    elif part == 4:
        from_least = tl.load(book_ptr + B.FROM_LEAST).to(tl.int32)
        if from_least > 0:  # there was an element
            positive, negative = tl.load(book_ptr + B.POSITIVE).to(tl.int32), tl.load(book_ptr + B.NEGATIVE).to(tl.int32)
            least = low_value(0x7FFFFFFF - from_least, KIND)
            # Without a positive element the largest is minus the smallest magnitude, and the other way round; no zero has a sign.
            minus_least = tl.where(from_least == 0x7FFFFFFF, 0.0, -least)
            highest = tl.where(positive > 0, low_value(positive, KIND), minus_least)
            minus_lowest = tl.where(negative > 0, low_value(negative, KIND), minus_least)
            kept = B.field(book_ptr, B.MAX, tl.float32)
            tl.store(kept, tl.maximum(tl.load(kept), highest))
            kept = B.field(book_ptr, B.NEG_MIN, tl.float32)
            tl.store(kept, tl.maximum(tl.load(kept), minus_lowest))
        tl.debug_barrier()
        for i in tl.static_range(3):
            tl.store(book_ptr + B.POSITIVE + i, 0)
    elif part == 5:
        most, n = tl.zeros([1024], tl.int64) - 1, tl.zeros([1024], tl.int64)
        for start in range(0, n_ties, 1024):
            i = start + tl.arange(0, 1024)
            tied = tl.load(book_ptr + B.TIED + i, mask=i < n_ties, other=0)
            tied_bits, count = tied >> 32, tied & 4294967295
            n = tl.where(tied_bits > most, count, tl.where(tied_bits == most, n + count, n))
            most = tl.maximum(most, tied_bits)
        absmax = tl.max(most, axis=0)
        n_tied = tl.sum(tl.where(most == absmax, n, 0), axis=0)
        kept, kept_n = B.field(book_ptr, B.ABSMAX, tl.int32), B.field(book_ptr, B.N_ABSMAX, tl.int64)
        old_absmax = tl.load(kept).to(tl.int64)
        tl.store(kept_n, tl.where(absmax > old_absmax, n_tied, tl.load(kept_n) + tl.where(absmax == old_absmax, n_tied, 0)))
        tl.store(kept, tl.maximum(old_absmax, absmax).to(tl.int32))
    else:
        n_tokens = B.field(book_ptr, B.N_TOKENS, tl.int64)
        tl.store(n_tokens, first_token + tl.load(book_ptr + B.N_KEPT))
        k = tl.arange(0, MAX_TOPK)
        tl.debug_barrier()
        tl.store(book_ptr + B.SLOTS + k, tl.zeros([MAX_TOPK], tl.int64), mask=k < topk)
        tl.store(book_ptr + B.N_KEPT, 0)
        tl.store(book_ptr + B.N_CANDIDATES, 0)
        tl.store(book_ptr + B.DRAWN, 0)


@triton.jit
def _or_none(bits):
    """Bits of a record's first number, -1 where it is nan: no token has taken it."""
    return tl.where(bits > 0x7F800000, -1, bits)

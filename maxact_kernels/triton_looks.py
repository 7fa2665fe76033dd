"""A tile of one row, on one warp, that stays in shared memory and is looked at twice, sixteen words of a lane at a time: for
read_kernel with int8_per_token, where PTX is and rows are wide. Registers need not hold the row, so three programs share a
scheduler for two, and loops take the place of two thousand instructions in a row. The second look leaves each place to the
next tile."""

import triton
import triton.language as tl

from .triton_int8 import add_word
from .triton_peaks import raise_words
from .triton_stage import ask_for_words, take_words
from .triton_words import (
    add_up,
    count_up,
    larger_magnitudes,
    magnitudes,
    no_magnitudes,
    picks,
    row_largest_magnitude,
    row_smallest_magnitude,
    smallest_magnitudes,
    smallest_of_three,
)

_GROUP = tl.constexpr(4)  # words of a lane are 16 bytes; so many of these at once, the last of a row first


@triton.jit
def first_look(staged, n_words, KIND: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The largest magnitude [1], and parts of the row's sum as triton_words.parts_of_sum has them. [1, L]"""
    N: tl.constexpr = K - (K - 1) // _GROUP * _GROUP
    b0, b1 = picks(KIND)
    zero = tl.zeros([1, L], tl.float32)
    most, cells = _look_for_most(
        tl.zeros([1, L], tl.int32), (zero, zero, zero, zero), staged + (K - N) * (4 * L), b0, b1, KIND, L, N)  # fmt: skip
    at = staged
    # As many steps as the row says: a constant would be unrolled.
    for _group in range((n_words - 1) // (_GROUP * L)):
        most, cells = _look_for_most(most, cells, at, b0, b1, KIND, L, _GROUP)
        at += _GROUP * 4 * L
    return row_largest_magnitude(most, KIND), (cells[0] + cells[1]) + (cells[2] + cells[3])


@triton.jit
def _look_for_most(most, cells, at, b0, b1, KIND: tl.constexpr, L: tl.constexpr, N: tl.constexpr):
    longer = ()
    for i in tl.static_range(_GROUP):
        cell = cells[i]
        if i < N:
            word = take_words(at + i * (4 * L))
            most = larger_magnitudes(most, word, KIND, 2)
            cell = add_up(cell, word, b0, b1, KIND)
        longer = longer + (cell,)
    return most, longer


@triton.jit
def second_look(staged, peaks, source, next_on, key, inverse, lift, n_words, LIFTED: tl.constexpr,
                KIND: tl.constexpr, L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """The smallest magnitude [1], how many are at most `key` [1], and parts of the sums of y^2, |x|, err^2 and |err|
    (triton_int8.py). [1, L] each. It raises the features' maxima, and asks for the next tile from `source` [1, L] on."""
    N: tl.constexpr = K - (K - 1) // _GROUP * _GROUP
    b0, b1 = picks(KIND)
    both = (key * 0x10001)[:, None]
    zero = tl.zeros([1, L], tl.float32)
    place = tl.arange(0, L)[None, :]
    n_bytes = tl.where(next_on[:, None] & (place >= 0), 16, 0)
    inside = ((K - 1) * L + place) // 4 < n_words // 4
    last_bytes = tl.where(inside, n_bytes, 0)
    offset = (K - N) * (4 * L)
    least, counted, cells, sums = _look_at_all(
        no_magnitudes(KIND, 1, L), zero, (zero, zero, zero, zero), (zero, zero, zero), staged + offset, peaks + offset,
        source + offset, n_bytes, last_bytes, inside, both, b0, b1, inverse, lift, True, LIFTED, KIND, L, N)  # fmt: skip
    offset = 0
    for _group in range((n_words - 1) // (_GROUP * L)):
        least, counted, cells, sums = _look_at_all(
            least, counted, cells, sums, staged + offset, peaks + offset, source + offset, n_bytes, n_bytes, inside,
            both, b0, b1, inverse, lift, False, LIFTED, KIND, L, _GROUP)  # fmt: skip
        offset += _GROUP * 4 * L
    reached, absolute = tl.sum(counted, axis=1).to(tl.int32), (cells[0] + cells[1]) + (cells[2] + cells[3])
    return row_smallest_magnitude(least, KIND), reached, sums[0], absolute, sums[1], sums[2]


@triton.jit
def _look_at_all(
    least, counted, cells, sums, at, peaks, source, n_bytes, last_bytes, inside, both, b0, b1, inverse, lift,
    BEGINS: tl.constexpr, LIFTED: tl.constexpr, KIND: tl.constexpr, L: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """N words; BEGINS: they are the row's last, and the first that are looked at."""
    words = ()
    for i in tl.static_range(N):
        words = words + (magnitudes(take_words(at + i * (4 * L)), KIND),)
    for i in tl.static_range(N):  # one after the other: a compiler puts three loads in front of each that follows a store
        ask_for_words(at + i * (4 * L), source + i * (4 * L), last_bytes if i == N - 1 else n_bytes)
    longer, part = (), sums
    for i in tl.static_range(_GROUP):
        cell = cells[i]
        if i < N:
            raise_words(peaks + i * (4 * L), words[i], BEGINS and i == 0, KIND)
            if BEGINS:
                some = tl.where(inside, words[i], no_magnitudes(KIND, 1, L)) if i == N - 1 else words[i]
                least = smallest_magnitudes(least, some, KIND, 2)
            elif i % 2 == 1:
                least = smallest_of_three(least, words[i - 1], words[i])
            cell = add_up(cell, words[i], b0, b1, KIND)
            counted = count_up(counted, words[i], both, b0, b1, KIND)
            part = add_word(part, words[i], inverse, lift, i == 0, LIFTED, KIND)
        longer = longer + (cell,)
    if not BEGINS:
        part = (sums[0] + part[0], sums[1] + part[1], sums[2] + part[2])
    return least, counted, longer, part

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
    but_padding,
    count_up,
    larger_magnitudes,
    magnitudes,
    no_magnitudes,
    picks,
    row_largest_magnitude,
    row_smallest_magnitude,
    smallest_magnitudes,
)

_GROUP = tl.constexpr(4)  # words of a lane are 16 bytes; so many of these at once


@triton.jit
def first_look(staged, n_words, KIND: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The largest magnitude [1], and parts of the row's sum, as triton_words has them, in chains of K / 4 steps. [1, L]"""
    b0, b1 = picks(KIND)
    zero = tl.zeros([1, L], tl.float32)
    most, cells = tl.zeros([1, L], tl.int32), (zero, zero, zero, zero)
    at = staged
    # As many steps as the row says: a constant would be unrolled.
    for _group in range((n_words - 1) // (_GROUP * L)):
        most, cells = _look_for_most(most, cells, at, b0, b1, KIND, L, _GROUP)
        at += _GROUP * 4 * L
    most, cells = _look_for_most(most, cells, at, b0, b1, KIND, L, K - (K - 1) // _GROUP * _GROUP)
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
def second_look(staged, peaks, source, next_on, key, inverse, lift, n_words, d, LIFTED: tl.constexpr,
                KIND: tl.constexpr, L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """The smallest magnitude [1], how many are at most `key` [1], and parts of the sums of y^2, |x|, err^2 and |err|
    (triton_int8.py). [1, L] each. It raises the features' maxima, and asks for the next tile from `source` [1, L] on."""
    b0, b1 = picks(KIND)
    both = (key * 0x10001)[:, None]
    zero = tl.zeros([1, L], tl.float32)
    least, counted, cells, sums = no_magnitudes(KIND, 1, L), zero, (zero, zero, zero, zero), (zero, zero, zero)
    place = tl.arange(0, L)[None, :]
    n_bytes = tl.where(next_on[:, None] & (place >= 0), 16, 0)
    offset = 0
    for _group in range((n_words - 1) // (_GROUP * L)):
        least, counted, cells, sums = _look_at_all(
            least, counted, cells, sums, staged + offset, peaks + offset, source + offset, n_bytes, n_bytes, n_words, d,
            both, b0, b1, inverse, lift, LIFTED, KIND, L, K, _GROUP, False)  # fmt: skip
        offset += _GROUP * 4 * L
    last_bytes = tl.where(((K - 1) * L + place) // 4 < n_words // 4, n_bytes, 0)
    least, counted, cells, sums = _look_at_all(
        least, counted, cells, sums, staged + offset, peaks + offset, source + offset, n_bytes, last_bytes, n_words, d,
        both, b0, b1, inverse, lift, LIFTED, KIND, L, K, K - (K - 1) // _GROUP * _GROUP, True)  # fmt: skip
    reached = tl.sum(counted, axis=1).to(tl.int32)
    return row_smallest_magnitude(least, KIND), reached, sums[0], (cells[0] + cells[1]) + (cells[2] + cells[3]), sums[1], sums[2]


@triton.jit
def _look_at_all(
    least, counted, cells, sums, at, peaks, source, n_bytes, last_bytes, n_words, d, both, b0, b1, inverse, lift,
    LIFTED: tl.constexpr, KIND: tl.constexpr, L: tl.constexpr, K: tl.constexpr, N: tl.constexpr, ENDS: tl.constexpr,
):  # fmt: skip
    """N words; ENDS: they are the row's last."""
    longer, part = (), sums
    for i in tl.static_range(_GROUP):
        cell = cells[i]
        if i < N:
            word = magnitudes(take_words(at + i * (4 * L)), KIND)
            n, some = n_bytes, word
            if ENDS and i == N - 1:
                n, some = last_bytes, but_padding(word, K - 1, n_words, d, KIND, L)
            ask_for_words(at + i * (4 * L), source + i * (4 * L), n)
            raise_words(peaks + i * (4 * L), word, ENDS and i == 0, KIND)
            least = smallest_magnitudes(least, some, KIND, 2)
            cell = add_up(cell, word, b0, b1, KIND)
            counted = count_up(counted, word, both, b0, b1, KIND)
            part = add_word(part, word, inverse, lift, i == 0, LIFTED, KIND)
        longer = longer + (cell,)
    return least, counted, longer, (sums[0] + part[0], sums[1] + part[1], sums[2] + part[2])

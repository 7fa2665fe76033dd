"""Lower medians of the rows of a tile, found by counting: each count tells how many elements are at most a key."""

import triton
import triton.language as tl

from .triton_words import FP32, at_most


@triton.jit
def median_keys(words, needs, top, key, width, rank, KIND: tl.constexpr, PACKED: tl.constexpr,
                R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """Of each row of magnitudes that needs it the smallest key that `rank` of its elements, padding too, do not exceed; else its `top`.

    `key`: where to count first; `width`: keys for each rank near the median, as far as known. Both [R]; returns the
    medians and the widths that were found. The bracket: n_below < rank elements are at most `below`, and n_enough >=
    rank at most `enough`. All rows of the tile step together until each has one key left.
    """
    enough = top
    below = tl.where(needs, -1, top - 1)
    n_below = tl.zeros([R], tl.int32)
    last_key, last_n = key, n_below
    turn = 0
    while tl.max(enough - below, axis=0) > 1:
        is_open = enough - below > 1
        key = tl.maximum(tl.minimum(key, enough - 1), below + 1)
        n = at_most(words, key, KIND, PACKED, R, L, K)
        is_above = n < rank
        # Two counts that differ enough give a width of their own; where a step changed little of what is missing, the
        # next is longer.
        missing = (rank - n).to(tl.float32) - 0.5
        ranks, keys = (n - last_n).to(tl.float32), (key - last_key).to(tl.float32)
        own = tl.minimum(tl.maximum(keys / ranks, 0.00390625), 1.0e6)
        stuck = tl.abs(missing) > 4 * tl.abs(ranks) + 4
        found = tl.where(tl.abs(ranks) >= 8, own, tl.where(stuck, 4 * width, width))
        width = tl.where(is_open & (turn > 0), found, width)
        last_key, last_n = key, n
        n_below = tl.where(is_open & is_above, n, n_below)
        below = tl.where(is_open & is_above, key, below)
        enough = tl.where(is_open & (n >= rank), key, enough)
        step = tl.ceil(tl.minimum(tl.maximum(missing * width, -1.0e9), 1.0e9)).to(tl.int32)
        # From the eighth count on halving, so that no data need more than 8 + log2(keys).
        key = tl.where(turn >= 7, below + (enough - below) // 2, key + step)
        if KIND == FP32:
            # Few elements lie between two keys of 31 bits: the next that occurs is the next to count.
            near = is_open & (rank - n_below <= 4)
            if tl.max(near.to(tl.int32), axis=0) > 0:
                above = _next_above(words, below, KIND, R, L, K)
                arrived = near & (rank - n_below == 1)
                below = tl.where(arrived, above - 1, below)
                enough = tl.where(arrived, above, enough)
                key = tl.where(near, above, key)
        turn += 1
    return enough, width


@triton.jit
def halved_medians(words, needs, top, least, rank, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr,
                   L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """The same from halving between the smallest and the largest magnitude: few instructions for a row, where a tile has
    many."""
    enough = top
    below = tl.where(needs, least, top) - 1
    while tl.max(enough - below, axis=0) > 1:
        key = below + ((enough - below) >> 1)
        is_enough = at_most(words, key, KIND, PACKED, R, L, K) >= rank
        is_open = enough - below > 1
        below = tl.where(is_open & ~is_enough, key, below)
        enough = tl.where(is_open & is_enough, key, enough)
    return enough


@triton.jit
def _next_above(words, key, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The smallest magnitude of each row that is more than `key`. [R]"""
    least = tl.full([R, L], 0x7FFFFFFF, tl.int32)
    for k in tl.static_range(K):
        least = tl.minimum(least, tl.where(words[k] > key[:, None], words[k], 0x7FFFFFFF))
    return tl.min(least, axis=1)

"""The tiles of read_kernel, for every width: a small table, nothing is tried at run time."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """How read_kernel cuts a tensor: tiles of `rows` rows as `chunks` tensors [rows, length] of words (triton_words.py)."""

    rows: int
    length: int
    chunks: int
    warps: int
    programs: int  # for each multiprocessor
    ahead: bool  # whether the next tile is loaded before this one is looked at


class Row(NamedTuple):
    """Up to `words` words of a row."""

    words: int
    rows: int
    length: int
    warps: int
    programs: int
    ahead: bool = True


# A warp reads 128 words at once, 16 bytes a lane. A lane holds words of the tile, of the next, and maxima of its features,
# 40 of each at most (72 without a next), or they spill. rows * length >= 128 * warps, or lanes would hold the same words.
TABLE = (
    Row(32, 32, 32, 1, 16),
    Row(64, 16, 64, 1, 16),
    Row(256, 4, 128, 1, 12),
    Row(1024, 1, 128, 1, 12),
    Row(2560, 1, 256, 2, 5),
    Row(5120, 1, 512, 4, 2),
    Row(10240, 1, 1024, 8, 1),
    Row(18432, 1, 1024, 8, 1, ahead=False),
)
MAX_WORDS = TABLE[-1].words


def shape_for(words: int) -> Shape | None:
    """The shape for rows of so many words; None: they are too wide for registers."""
    for row in TABLE:
        if words <= row.words:
            return Shape(row.rows, row.length, -(-words // row.length), row.warps, row.programs, row.ahead)
    return None

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


class Row(NamedTuple):
    """Up to `words` words of a row."""

    words: int
    rows: int
    length: int
    warps: int
    programs: int


# A warp reads 128 words at once, 16 bytes a lane; a lane holds at most 72 words of the tile, as many that come next, and
# as many maxima of features. rows * length >= 128 * warps, or lanes would hold the same words.
TABLE = (
    Row(32, 32, 32, 1, 16),
    Row(64, 16, 64, 1, 16),
    Row(256, 4, 128, 1, 12),
    Row(1024, 1, 128, 1, 12),
    Row(2560, 1, 128, 1, 8),
    Row(5120, 1, 256, 2, 4),
    Row(10240, 1, 512, 4, 2),
    Row(20480, 1, 1024, 8, 1),
)
MAX_WORDS = TABLE[-1].words


def shape_for(words: int) -> Shape | None:
    """The shape for rows of so many words; None: they are too wide for registers."""
    for row in TABLE:
        if words <= row.words:
            return Shape(row.rows, row.length, -(-words // row.length), row.warps, row.programs)
    return None

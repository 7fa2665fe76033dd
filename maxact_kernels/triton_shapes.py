"""The tiles of read_kernel, for every width and set of options: a small table, nothing is tried at run time."""

from __future__ import annotations

from typing import NamedTuple

from .fields import Options


class Shape(NamedTuple):
    """How read_kernel cuts a tensor: tiles of `rows` rows as `chunks` tensors [rows, length] of words (triton_words.py)."""

    rows: int
    length: int
    chunks: int
    warps: int
    programs: int  # for each multiprocessor
    ahead: bool  # whether the next tile is loaded before this one is looked at
    shared: bool  # whether the features' maxima lie in shared memory, where there is some to declare
    staged: bool  # whether the next tile is on its way there, where rows are aligned, to a program of one warp
    twice: bool  # whether a tile stays there and is looked at twice


class Row(NamedTuple):
    """Up to `words` words of a row."""

    words: int
    rows: int
    length: int
    warps: int
    programs: int
    ahead: bool = False
    shared: bool = False
    staged: bool = False
    twice: bool = False


# A warp reads 128 words at once, 16 bytes a lane. A lane holds words of the tile, of the next where it is loaded ahead, and
# maxima of its features where they are not in shared memory, 128 registers of these at most, or they spill.
# rows * length >= 128 * warps, or lanes would hold the same words. One warp a row, where it can, needs no barrier. Programs
# of one warp come in fours, one for each scheduler: its registers hold no fraction of a program. Where tiles go to whoever asks
# (staged ones do) a scheduler may have one less than another.
# Behind a row: share of the read ceiling at its last width, bf16, of an H100, or where it is named of an H200, whose ceiling is
# 1.45 times as high.
LEAN = (  # counts=False, medians=False
    Row(32, 16, 32, 1, 8, shared=True),  # 18 % at 64 (H200); H100: 20 % with 32 rows and maxima in registers
    Row(64, 8, 64, 1, 12, shared=True),  # 23 % at 128 (H200); H100: 23 % with 16 rows and maxima in registers
    Row(512, 1, 128, 1, 24, shared=True),  # 87 % at 1024; 7 % less with 2 rows
    Row(1024, 1, 128, 1, 16, shared=True),  # 89 % at 2048
    Row(2560, 1, 256, 2, 8, shared=True),  # 92 % at 4096 and 5120; 2 % less with one warp and 12 programs
    Row(5120, 1, 256, 2, 6, shared=True),  # 91 % at 8192
    Row(10240, 1, 512, 4, 3, shared=True),  # 86 % at 18944
    Row(18432, 1, 1024, 8, 1),  # 79 % at 36864
)
MEDIANS = (  # counts=False
    *LEAN[:2],  # 7 and 9 % (H200)
    Row(512, 2, 128, 1, 12, shared=True),  # 51 % at 1024; 48 % with one row and 16 programs
    Row(1024, 1, 128, 1, 16, shared=True),  # 70 % at 2048
    Row(2560, 1, 128, 1, 12, shared=True),  # 89 % at 4096, 88 % at 5120
    *LEAN[-3:],  # 77 % at 8192
)
INT8 = (  # counts=False, int8_per_token=True
    Row(32, 16, 32, 1, 8, shared=True),  # 12 % at 64 (H200)
    Row(64, 8, 64, 1, 8, shared=True),  # 12 % at 128 (H200)
    Row(512, 1, 128, 1, 16, shared=True, staged=True),  # 64 % at 1024
    Row(1024, 1, 128, 1, 12, shared=True, staged=True),  # 81 % at 2048; 74 % looked at twice, 4 % less with 8 programs
    Row(2048, 1, 128, 1, 12, shared=True, staged=True, twice=True),  # 90 % at 4096, 86 % at 2880
    Row(2560, 1, 128, 1, 10, shared=True, staged=True, twice=True),  # 90 % at 5120; 3 % less with 8, more find no room
    Row(2560, 1, 128, 1, 8, shared=True, staged=True),  # 86 % at 4096 and 5120; 3 and 1 % less with 12 programs
    *LEAN[-3:],  # 81 % at 8192
)
COUNTS = (  # a table of 32 KiB for each program: several warps share one
    Row(32, 16, 32, 1, 6, shared=True),  # 5 % at 64 (H200); H100: 3 % with 32 rows, medians by density
    Row(64, 8, 64, 1, 6, shared=True),  # 5 % at 128 (H200); H100: 3 % with 16 rows, medians by density
    Row(512, 2, 128, 1, 6),  # 29 % at 1024
    Row(1024, 1, 128, 1, 6, ahead=True),  # 39 % at 2048
    Row(2560, 1, 256, 2, 6),  # 49 % at 4096, 51 % at 5120; 45 % with 4 rows and 4 warps
    Row(5120, 1, 512, 4, 2, ahead=True),  # 40 % at 8192
    Row(10240, 1, 1024, 8, 1, ahead=True),  # 33 % at 18944
    Row(18432, 1, 1024, 8, 1),  # 33 % at 36864
)


def shape_for(o: Options, arch: int, aligned: bool = True) -> Shape | None:
    """The shape for rows of these options; None: they are too wide for registers. arch: of an NVIDIA GPU, else 0."""
    words = o.d if o.dtype == "float32" else -(-o.d // 2)
    looks = aligned and arch >= 90 and o.dtype != "float32" and not o.medians
    for row in COUNTS if o.counts else INT8 if o.int8_per_token else MEDIANS if o.medians else LEAN:
        if words <= row.words and (looks or not row.twice):
            rows, programs = row.rows, row.programs
            if not aligned:  # a word is two loads, which want registers, and a lane has words of more rows
                rows, programs = min(rows, 8), min(programs, max(8, -(-row.warps * programs // 6) * 4) // row.warps)
            return Shape(rows, row.length, -(-words // row.length), row.warps, programs, *row[5:])
    return None

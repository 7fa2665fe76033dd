"""How many elements have each magnitude: on NVIDIA a table in the shared memory of a program, elsewhere the state's own.

Triton has no word for a table in shared memory that single elements are added to. PTX has: a few lines of it declare the
table, clear it and add to it; its address is a number of 32 bits.
"""

import triton
import triton.language as tl

from . import triton_book as B
from .triton_words import FP16, FP32, at_most

# Bins of a table: 64 octaves of bfloat16, 11 of fp16. With what Triton itself needs it must stay within the 48 KiB that a
# kernel may use unasked, or the launch is refused.
WIDE_BINS, FINE_BINS = 8192, 11264
# A table is cleared by 16 bytes a thread at a time, so it has that much at least. In front of the bins a word for each lane,
# where what the table does not hold is counted: 32 lanes in 32 banks.
OPEN = (
    "{{.reg .pred p; .reg .b32 at, end, step, z; .shared .align 16 .b8 counts[{0}]; mov.u32 $0, counts; mov.u32 at, %tid.x; "
    "shl.b32 at, at, 4; add.u32 at, at, $0; mov.u32 step, %ntid.x; shl.b32 step, step, 4; add.u32 end, $0, {0}; mov.u32 z, 0; "
    "next: st.shared.v4.u32 [at], {{z, z, z, z}}; add.u32 at, at, step; setp.lt.u32 p, at, end; @p bra next; add.u32 $0, $0, $1; "
    "bar.sync 0;}}"
)
_OPEN_WIDE = tl.constexpr(OPEN.format(4 * WIDE_BINS + 128))
_OPEN_FINE = tl.constexpr(OPEN.format(4 * FINE_BINS + 128))

# $1 words, $2 the address of key 0, $3 the lane's own word. A dot product makes the address of a half.
_UPPER_ONLY = (
    "dp2a.lo.u32.u32 b, $1, 1024, $2; max.s32 b, b, $3; red.shared.add.u32 [b], 1; mov.u32 $0, 0;}"
)
_FAST_32 = tl.constexpr("{.reg .b32 b; " + _UPPER_ONLY)
_FAST_16 = tl.constexpr(
    "{.reg .b32 a, b; dp2a.lo.u32.u32 a, $1, 4, $2; max.s32 a, a, $3; red.shared.add.u32 [a], 1; " + _UPPER_ONLY
)
# $3 the first key of the table, $4 the state's counts: for keys outside, but for zero.
_ANY = (
    "sub.u32 from, key, $3; setp.lt.u32 in, from, {0}; mad.lo.u32 at, key, 4, $2; @in red.shared.add.u32 [at], 1; "
    "setp.ne.u32 out, {1}, 0; @in setp.ne.u32 out, 0, 0; mad.wide.u32 to, key, 8, $4; @out red.global.add.u64 [to], 1; "
)
_ANY_BEGIN = "{.reg .pred in, out; .reg .b32 key, from, at; .reg .b64 to; "
_ANY_32 = tl.constexpr(_ANY_BEGIN + "shr.u32 key, $1, 16; " + _ANY.format(WIDE_BINS, "$1") + "mov.u32 $0, 0;}")


def _any_16(n_bins: int) -> str:
    one = _ANY.format(n_bins, "key")
    return _ANY_BEGIN + "and.b32 key, $1, 0xFFFF; " + one + "shr.u32 key, $1, 16; " + one + "mov.u32 $0, 0;}"


_ANY_WIDE, _ANY_FINE = tl.constexpr(_any_16(WIDE_BINS)), tl.constexpr(_any_16(FINE_BINS))


@triton.jit
def open_counts(top, KIND: tl.constexpr, N_BINS: tl.constexpr):
    """A table of N_BINS cleared bins: its address and its first key, for a tensor of which one row has the maximum `top`."""
    if N_BINS == 0:
        return (0, 0)
    address = tl.inline_asm_elementwise(
        _OPEN_FINE if KIND == FP16 else _OPEN_WIDE, "=r,r", [tl.program_id(0) * 0], tl.int32, False, 1)  # fmt: skip
    # Room for rows that exceed this one, 16 octaves or, where the table is short of them, one.
    key = (top >> 16 if KIND == FP32 else top) + (1024 if KIND == FP16 else 2048)
    return (address, tl.maximum(key - N_BINS, 1))


@triton.jit
def count_words(words, table, top, least, zeros, n_nothing, book_ptr, KIND: tl.constexpr, PACKED: tl.constexpr,
                R: tl.constexpr, L: tl.constexpr, K: tl.constexpr, N_BINS: tl.constexpr):  # fmt: skip
    """Count every magnitude of a tile but zeros; of each row the maximum, the smallest magnitude, its number of zeros
    and of places that hold no element."""
    counts = tl.load(book_ptr + B.COUNTS)
    if N_BINS == 0:
        _count_plainly(words, counts, KIND, K)
    else:
        address, first = table
        at_zero = address + 128 - 4 * first
        if KIND == FP16:
            _count_any(words, at_zero, first, counts, KIND, R, L, K)
        else:
            below = (first << 16) - 1 if KIND == FP32 else first - 1
            high = top > ((first + N_BINS - 1) << 16 | 0xFFFF if KIND == FP32 else first + N_BINS - 1)
            low = tl.zeros([R], tl.int32)
            if tl.min(least, axis=0) <= below:
                few = at_most(words, tl.zeros([R], tl.int32) + below, KIND, PACKED, R, L, K)
                low = tl.where(least <= below, few - n_nothing - zeros, 0)
            if tl.max((high | (low != 0)).to(tl.int32), axis=0) > 0:
                _count_any(words, at_zero, first, counts, KIND, R, L, K)
            else:
                lane = address + (tl.arange(0, L)[None, :] // 4 % 32) * 4
                for k in tl.static_range(K):
                    tl.inline_asm_elementwise(
                        _FAST_32 if KIND == FP32 else _FAST_16, "=r,r,r,r", [words[k], at_zero, lane],
                        tl.int32, False, 1)  # fmt: skip


@triton.jit
def _count_any(words, at_zero, first, counts, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The same, and what the table does not hold one by one in the state's own."""
    asm: tl.constexpr = _ANY_32 if KIND == FP32 else _ANY_FINE if KIND == FP16 else _ANY_WIDE
    for k in tl.static_range(K):
        tl.inline_asm_elementwise(
            asm, "=r,r,r,r,l", [words[k], at_zero, first, counts + tl.zeros([R, L], tl.int64)], tl.int32, False, 1)  # fmt: skip


@triton.jit
def _count_plainly(words, counts, KIND: tl.constexpr, K: tl.constexpr):
    cells = counts.to(tl.pointer_type(tl.int64))
    for k in tl.static_range(K):
        one = tl.full(words[k].shape, 1, tl.int64)
        if KIND == FP32:
            tl.atomic_add(cells + (words[k] >> 16), one, mask=words[k] != 0, sem="relaxed")
        else:
            low, high = words[k] & 0xFFFF, words[k] >> 16
            tl.atomic_add(cells + low, one, mask=low != 0, sem="relaxed")
            tl.atomic_add(cells + high, one, mask=high != 0, sem="relaxed")


@triton.jit
def flush_counts(table, n_zero, book_ptr, N_BINS: tl.constexpr):
    """Add the table, and zeros, to the state's counts."""
    counts = B.field(book_ptr, B.COUNTS, tl.int64)
    if n_zero > 0:
        tl.atomic_add(counts, n_zero, sem="relaxed")
    if N_BINS != 0:
        address, first = table
        tl.debug_barrier()
        # Each program begins elsewhere, so that programs that end together do not meet in one cell.
        turn = tl.program_id(0) * 7 * 128 % N_BINS
        for start in range(0, N_BINS, 1024):
            at = start + tl.arange(0, 1024)
            at = tl.where(at + turn < N_BINS, at + turn, at + turn - N_BINS)
            n = tl.inline_asm_elementwise(
                "ld.shared.u32 $0, [$1];", "=r,r", [address + 128 + 4 * tl.minimum(at, N_BINS - 1)], tl.int32, False, 1)  # fmt: skip
            inside = (start + tl.arange(0, 1024) < N_BINS) & (n != 0)
            tl.atomic_add(counts + first + at, n.to(tl.int64) & 4294967295, mask=inside, sem="relaxed")

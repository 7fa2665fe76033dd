"""Exact sums of the rows' numbers in Triton: integers for each binary exponent (fields.py), in the shared memory of a program
where PTX is, and from there to the state at once; elsewhere exponent by exponent."""

import triton
import triton.language as tl

from . import triton_book as B
from .fields import N_EXPONENTS
from .triton_count import OPEN

_N = tl.constexpr(N_EXPONENTS)
# A bin is two words: the sums of the lower 12 bits and of what is above them, which hold 2^19 addends of 24 bits.
_ADD = tl.constexpr(
    "{.reg .pred p; .reg .b32 at, part; setp.ge.s32 p, $1, 0; mad.lo.u32 at, $1, 8, $3; and.b32 part, $2, 0xFFF; "
    "@p red.shared.add.u32 [at], part; shr.s32 part, $2, 12; @p red.shared.add.u32 [at+4], part; mov.u32 $0, 0;}"
)


def opening(n_sums: int) -> str:
    """The PTX that declares and clears the bins of so many sums."""
    return OPEN.format(8 * n_sums * N_EXPONENTS)


@triton.jit
def open_sums(OPENING: tl.constexpr):
    """The address of the first sum's bins. OPENING: `opening`, or nothing where there is no PTX."""
    if OPENING == "":
        return tl.program_id(0) * 0
    return tl.inline_asm_elementwise(OPENING, "=r,r", [tl.program_id(0) * 0], tl.int32, False, 1)


@triton.jit
def add_exactly(sums, WHICH: tl.constexpr, book_ptr, FIELD: tl.constexpr, addends, on, OPENING: tl.constexpr):
    """Add float64 addends, each rounded to 24 significant bits, to sum WHICH of this program, which is the state's FIELD."""
    bits = addends.to(tl.int64, bitcast=True)
    significand = (bits & 4503599627370495) | 4503599627370496
    index = ((bits >> 52) & 2047).to(tl.int32) - 638  # the exponent as frexp has it, from 2^-384
    rest = significand & 536870911
    mantissa = (significand >> 29).to(tl.int32)
    mantissa += ((rest > 268435456) | ((rest == 268435456) & (mantissa & 1 == 1))).to(tl.int32)
    mantissa = tl.where(bits < 0, -mantissa, mantissa)
    index = tl.where(on & (index >= 0), index, -1)
    if OPENING != "":
        tl.inline_asm_elementwise(_ADD, "=r,r,r,r", [index, mantissa, sums + WHICH * 8 * _N], tl.int32, False, 1)
    else:
        bins = B.field(book_ptr, FIELD, tl.int64)
        most = tl.max(index, axis=0)
        while most >= 0:
            tl.atomic_add(bins + most, tl.sum(tl.where(index == most, mantissa, 0).to(tl.int64), axis=0), sem="relaxed")
            index = tl.where(index == most, -1, index)
            most = tl.max(index, axis=0)


@triton.jit
def flush_sum(sums, WHICH: tl.constexpr, book_ptr, FIELD: tl.constexpr, OPENING: tl.constexpr):
    """Add what add_exactly left of a sum to the state; a barrier is between."""
    if OPENING != "":
        i = tl.arange(0, 1024)
        at = sums + WHICH * 8 * _N + 8 * tl.minimum(i, _N - 1)
        low, high = tl.inline_asm_elementwise("ld.shared.v2.u32 {$0, $1}, [$2];", "=r,=r,r", [at], (tl.int32, tl.int32), False, 1)
        total = (low.to(tl.int64) & 4294967295) + (high.to(tl.int64) << 12)
        tl.atomic_add(B.field(book_ptr, FIELD, tl.int64) + i, total, mask=(i < _N) & (total != 0), sem="relaxed")

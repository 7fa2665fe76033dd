"""The features' maxima of a program in shared memory, where PTX is: registers that hold a tile leave no room for them.

A thread has the words of its own lanes in the table and no others, so there is nothing to wait for.
"""

import triton
import triton.language as tl

from .triton_count import OPEN
from .triton_words import FP32

_RAISE = "{{.reg .b32 kept, word; and.b32 word, $2, {0}; ld.shared.u32 kept, [$1]; max.{1} kept, kept, word; st.shared.u32 [$1], kept; mov.u32 $0, 0;}}"
_RAISE_32 = tl.constexpr(_RAISE.format("0x7FFFFFFF", "u32"))
_RAISE_16 = tl.constexpr(_RAISE.format("0x7FFF7FFF", "u16x2"))


def opening(n_words: int) -> str:
    """The PTX that declares and clears a table of so many words."""
    return OPEN.format(4 * n_words)


@triton.jit
def open_peaks(OPENING: tl.constexpr):
    return tl.inline_asm_elementwise(OPENING, "=r,r", [tl.program_id(0) * 0], tl.int32, False, 1)


@triton.jit
def raise_peaks(lane_words, words, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """`lane_words` [R, L]: the address of each lane's word of the first K-th of a tile."""
    for k in tl.static_range(K):
        tl.inline_asm_elementwise(
            _RAISE_32 if KIND == FP32 else _RAISE_16, "=r,r,r", [lane_words + k * (4 * R * L), words[k]], tl.int32,
            False, 1)  # fmt: skip


@triton.jit
def peaks_at(lane_words, k, R: tl.constexpr, L: tl.constexpr):
    return tl.inline_asm_elementwise(
        "ld.shared.u32 $0, [$1];", "=r,r", [lane_words + k * (4 * R * L)], tl.int32, False, 1)  # fmt: skip

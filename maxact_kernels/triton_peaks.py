"""The features' maxima of a program in shared memory, where PTX is: registers that hold a tile leave no room for them.

While rows are read a thread has the words of its own lanes in the table and no others, so nothing waits until the end.
"""

import triton
import triton.language as tl

from .triton_count import OPEN
from .triton_words import FP32

_RAISE = "{{.reg .b32 kept; ld.shared.u32 kept, [$1]; max.{0} kept, kept, $2; st.shared.u32 [$1], kept; mov.u32 $0, 0;}}"
# The same for four words whose addresses $4 to $7 follow each other, as those of a lane do that loads 16 bytes. If a compiler
# ever saw to that differently, the kernel ends here: the words of a tile are checked once.
_RAISE_FOUR = (
    "{{.reg .pred p; .reg .b32 a, b, c, d; CHECK ld.shared.v4.u32 {{a, b, c, d}}, [$4]; max.{0} a, a, $8; max.{0} b, b, $9; "
    "max.{0} c, c, $10; max.{0} d, d, $11; st.shared.v4.u32 [$4], {{a, b, c, d}}; mov.u32 $0, 0; mov.u32 $1, 0; "
    "mov.u32 $2, 0; mov.u32 $3, 0;}}"
)
_CHECK = "add.u32 a, $4, 12; setp.ne.u32 p, a, $7; @p trap;"
_RAISE_32, _RAISE_16 = (tl.constexpr(_RAISE.format(kind)) for kind in ("u32", "u16x2"))
_FOUR_32, _FOUR_16 = (tl.constexpr(_RAISE_FOUR.format(kind).replace("CHECK", "")) for kind in ("u32", "u16x2"))
_FIRST_32, _FIRST_16 = (tl.constexpr(_RAISE_FOUR.format(kind).replace("CHECK", _CHECK)) for kind in ("u32", "u16x2"))
_FOUR_OPERANDS = tl.constexpr("=r,=r,=r,=r,r,r,r,r,r,r,r,r")


def opening(n_words: int) -> str:
    """The PTX that declares and clears a table of so many words."""
    return OPEN.format(4 * n_words)


@triton.jit
def open_table(OPENING: tl.constexpr):
    return tl.inline_asm_elementwise(OPENING, "=r,r", [tl.program_id(0) * 0], tl.int32, False, 1)


@triton.jit
def raise_words(at, word, CHECKED: tl.constexpr, KIND: tl.constexpr):
    """By words of which a lane has four that follow each other, to the addresses `at`."""
    tl.inline_asm_elementwise(
        (_FIRST_32 if KIND == FP32 else _FIRST_16) if CHECKED else _FOUR_32 if KIND == FP32 else _FOUR_16,
        _FOUR_OPERANDS, [at, word], tl.int32, False, 4)  # fmt: skip


@triton.jit
def raise_peaks(lane_words, words, KIND: tl.constexpr, ALIGNED: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
                K: tl.constexpr):  # fmt: skip
    """`lane_words` [R, L]: the address of each lane's word of the first K-th of a tile."""
    for k in tl.static_range(K):
        at = lane_words + k * (4 * R * L)
        if ALIGNED:
            raise_words(at, words[k], k == 0, KIND)
        else:
            tl.inline_asm_elementwise(
                _RAISE_32 if KIND == FP32 else _RAISE_16, "=r,r,r", [at, words[k]], tl.int32, False, 1)  # fmt: skip


@triton.jit
def peaks_at(lane_words, k, R: tl.constexpr, L: tl.constexpr):
    return tl.inline_asm_elementwise(
        "ld.shared.u32 $0, [$1];", "=r,r", [lane_words + k * (4 * R * L)], tl.int32, False, 1)  # fmt: skip
